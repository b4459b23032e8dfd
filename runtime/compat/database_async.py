"""The database of the earlier service, as its later generation had it: `DatabaseService`.

`Database` and `get_database` are what that generation kept for older code. There they failed in a running
event loop, and had lost half of their methods; here they are those of `runtime.compat.database`, on the
database that `init_database` chose.
"""

from __future__ import annotations

from typing import NoReturn

from runtime.compat import database
from runtime.compat.database_service import (
    DatabaseService,
    DatabaseSession,
    close_db,
    get_database_service,
    get_db,
    init_database,
    init_db,
    initialized_thread,
)
from runtime.compat.exceptions import INSTEAD, IntegrityError, NotSupported, refuse
from runtime.compat.store_thread import StoreThread

__all__ = [
    "Database",
    "DatabaseService",
    "DatabaseSession",
    "IntegrityError",
    "NotSupported",
    "close_db",
    "get_database",
    "get_database_service",
    "get_db",
    "get_db_legacy",
    "init_database",
    "init_db",
]


class Database(database.Database):
    """The database that `init_database` chose; a URL that is given is ignored.

    Methods raise RuntimeError before `init_database`.
    """

    def __init__(self, db_url: str | None = None) -> None:
        self.db_url = db_url or ""

    @property
    def thread(self) -> StoreThread:
        """The store, in its thread."""
        return initialized_thread()


def get_db_legacy() -> Database:
    """A new `Database()`."""
    return Database()


get_database = get_db_legacy


def __getattr__(name: str) -> NoReturn:
    """Refuse the names of SQLAlchemy's objects that this module had."""
    if name in INSTEAD:
        refuse(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
