"""The errors that the names of the earlier service raise beside the store's own."""

from __future__ import annotations

import importlib
from typing import NoReturn

from runtime.errors import AgentRuntimeError


class NotSupported(AgentRuntimeError, NotImplementedError):
    """This was SQLAlchemy's, which is not used here; the message names what to use instead."""

    code = "not_supported"


# What the earlier service gave out of SQLAlchemy, and what to use instead of each.
INSTEAD = {
    "session_scope": "the methods of Database, each of which is a transaction",
    "get_session": "the methods of Database, each of which is a transaction",
    "SessionLocal": "the methods of Database, each of which is a transaction",
    "async_session_maker": "get_db, whose value the methods of DatabaseService take",
    "engine": "runtime.open_store for a store in an event loop, or sqlite3 and psycopg to look at the tables",
    "Base": "runtime.models for what is stored; `agent-runtime migrate` makes the tables",
}


def refuse(name: str) -> NoReturn:
    """Raise NotSupported for a name of SQLAlchemy's."""
    raise NotSupported(f"{name} needs SQLAlchemy, which is not used here; use {INSTEAD[name]}")


def _integrity_error() -> type[Exception]:
    """The class of that name; where SQLAlchemy is installed, its own class catches it too."""
    try:
        theirs: type[Exception] = importlib.import_module("sqlalchemy.exc").IntegrityError
    except ImportError:
        return type(
            "IntegrityError", (AgentRuntimeError,), {"code": "integrity_error", "__module__": __name__}
        )

    def __init__(self: Exception, message: str) -> None:
        # A statement, its parameters and the error of a driver.
        theirs.__init__(self, None, None, ValueError(message))

    body = {"code": "integrity_error", "__module__": __name__, "__init__": __init__}
    return type("IntegrityError", (AgentRuntimeError, theirs), body)


IntegrityError = _integrity_error()
"""The database refuses the data: a role that is none, or a session whose deletion can be taken back."""
