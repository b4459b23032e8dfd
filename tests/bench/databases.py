"""The databases that are measured: durable ones, unlike those of the tests."""

from __future__ import annotations

import os
import platform
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from runtime.db.migrate import apply_migrations
from tests.postgres_server import PostgresServer, run_server

SETTINGS = ("server_version", "fsync", "synchronous_commit", "wal_sync_method", "shared_buffers")


class Databases:
    """Makes fresh databases of either kind."""

    def __init__(self, server: PostgresServer, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self._count = 0

    async def make(self) -> dict[str, str]:
        """The URL of a new, migrated database of each kind, by its name."""
        self._count += 1
        urls = {
            "sqlite": f"sqlite:///{self._folder / f'{self._count}.db'}",
            "postgres": self._server.url(self._server.create()),
        }
        for url in urls.values():
            await apply_migrations(url)
        return urls

    def describe(self) -> str:
        """What the figures depend on."""
        with psycopg.connect(self._server.url("postgres")) as connection:
            shown = [
                f"{name} {value}" for name in SETTINGS for (value,) in connection.execute(f"SHOW {name}")
            ]
        return (
            f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}\n"
            f"sqlite {sqlite3.sqlite_version}: WAL, synchronous FULL, in {self._folder.parent}\n"
            f"postgres: {', '.join(shown)}"
        )


@contextmanager
def open_databases() -> Iterator[Databases]:
    """A Postgres that keeps what it acknowledged through a power cut, and a folder for files of SQLite."""
    with tempfile.TemporaryDirectory(prefix="agent-runtime-bench-") as folder, run_server() as server:
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = on")
            connection.execute("SELECT pg_reload_conf()")
        yield Databases(server, Path(folder))
