"""A database's URL in our form, as the peers' libraries take it."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

POOL_SIZE = 16
# Seconds. Nobody is turned away: with 256 callers some wait long, as neither the pool nor SQLite is fair.
PATIENCE = 60.0
DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}


def sqlite_path(url: str) -> str:
    """The file of a database of SQLite."""
    return url.removeprefix("sqlite:///")


@asynccontextmanager
async def open_engine(url: str) -> AsyncIterator[AsyncEngine]:
    """An engine of SQLAlchemy with a pool of 16, on SQLite as well: there one connection is slower."""
    kind, _, place = url.partition(":")
    if kind == "sqlite":
        use_wal(sqlite_path(url))
    engine = create_async_engine(
        f"{DRIVERS[kind]}:{place}",
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=PATIENCE,
        connect_args={"timeout": PATIENCE},
    )
    try:
        yield engine
    finally:
        await engine.dispose()


def use_wal(path: str) -> None:
    """The file remembers it. `synchronous` stays FULL, which is its default."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
