"""Durable appends a second through the store, and what the bare driver commits."""

from __future__ import annotations

import asyncio
import functools
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from itertools import cycle

import asyncpg

from runtime.store.store import Store, open_store
from tests.bench.databases import Databases
from tests.bench.measuring import Measure, print_rates, take_turns
from tests.contract.obstacles import sqlite_path

SESSIONS = [f"session {number}" for number in range(50)]
CALLERS = (1, 32, 256)
MESSAGE = {"role": "user", "content": "Could you find me a flight that leaves early, please? " * 10}


async def run(databases: Databases, *, rounds: int, seconds: float) -> None:
    """Print a table for each database."""
    for kind, url in (await databases.make()).items():
        async with open_store(url) as store:
            for session_id in SESSIONS:
                await store.create_session(session_id)
            raw = raw_sqlite if kind == "sqlite" else raw_postgres
            measures: dict[str, Measure] = {"driver, one row a commit": functools.partial(raw, url, seconds)}
            for callers in CALLERS:
                name = f"{callers} caller" + "s" * (callers > 1)
                measures[name] = functools.partial(appends, store, callers, seconds)
            print_rates(f"durable appends, {kind}", await take_turns(measures, rounds))


async def appends(store: Store, callers: int, seconds: float) -> float:
    """Appends a second, each caller waiting for one before the next."""
    sessions = cycle(SESSIONS)

    async def append() -> None:
        await store.append_messages(next(sessions), [MESSAGE])

    return await rate(append, callers, seconds)


async def rate(action: Callable[[], Awaitable[object]], callers: int, seconds: float) -> float:
    """How often a second an action is done by so many callers, each doing it over and over."""
    done = 0
    started = time.perf_counter()

    async def call() -> None:
        nonlocal done
        while time.perf_counter() - started < seconds:
            await action()
            done += 1

    await asyncio.gather(*(call() for _ in range(callers)))
    return done / (time.perf_counter() - started)


async def raw_postgres(url: str, seconds: float) -> float:
    """One connection, one prepared INSERT of one row at a time."""
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE IF NOT EXISTS raw (id bigserial PRIMARY KEY, body text)")
    insert = await connection.prepare("INSERT INTO raw (body) VALUES ($1)")
    reached = await rate(lambda: insert.fetch(MESSAGE["content"]), 1, seconds)
    await connection.close()
    return reached


async def raw_sqlite(url: str, seconds: float) -> float:
    """The same without any event loop, on a file of its own: that of the store has one writer (W1)."""
    return await asyncio.to_thread(_insert_rows, f"{sqlite_path(url)}.raw", seconds)


def _insert_rows(path: str, seconds: float) -> float:
    done = 0
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE IF NOT EXISTS raw (id integer PRIMARY KEY, body text)")
        started = time.perf_counter()
        while (elapsed := time.perf_counter() - started) < seconds:
            connection.execute("INSERT INTO raw (body) VALUES (?)", (MESSAGE["content"],))
            done += 1
    return done / elapsed
