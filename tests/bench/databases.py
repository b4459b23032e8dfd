"""The databases that are measured: durable ones, unlike those of the tests."""

from __future__ import annotations

import os
import platform
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psycopg

from runtime.db.migrate import apply_migrations
from tests.support.postgres_server import PostgresServer, run_server

PACKAGES = ("aiohttp", "asyncpg", "aiosqlite", "msgspec", "uvloop")
SETTINGS = ("server_version", "fsync", "synchronous_commit", "wal_sync_method", "shared_buffers")


class Databases:
    """Makes fresh databases of either kind."""

    def __init__(self, server: PostgresServer, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self._count = 0

    async def make(self) -> dict[str, str]:
        """The URL of a new, migrated database of each kind, by its name."""
        urls = await self.make_empty()
        for url in urls.values():
            await apply_migrations(url)
        return urls

    async def make_empty(self) -> dict[str, str]:
        """The same without any table."""
        self._count += 1
        return {
            "sqlite": f"sqlite:///{self._folder / f'{self._count}.db'}",
            "postgres": self._server.url(self._server.create()),
        }

    def describe(self) -> str:
        """What the figures depend on."""
        with psycopg.connect(self._server.url("postgres")) as connection:
            shown = [
                f"{name} {value}" for name in SETTINGS for (value,) in connection.execute(f"SHOW {name}")
            ]
        return (
            f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n"
            f"Python {platform.python_version()}, {', '.join(map(describe_package, PACKAGES))}\n"
            f"sqlite {sqlite3.sqlite_version}: WAL, synchronous FULL, on the same disk as Postgres\n"
            f"postgres: {', '.join(shown)}"
        )


def processor() -> str:
    """Its model, where the system tells."""
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def describe_package(name: str) -> str:
    """Its name and version, or that it is not there."""
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"no {name}"


@contextmanager
def open_databases() -> Iterator[Databases]:
    """A Postgres that keeps what it acknowledged through a power cut, and a folder for files of SQLite."""
    with tempfile.TemporaryDirectory(prefix="agent-runtime-bench-") as folder, run_server() as server:
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = on")
            connection.execute("SELECT pg_reload_conf()")
        yield Databases(server, Path(folder))
