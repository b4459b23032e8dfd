"""What the drivers themselves reach: rows a second by batch size, and commits of one row.

The table has the columns of `messages` and its primary key, no other index and no reference, and the rows are
those of the message that all benchmarks append.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from functools import partial
from itertools import count

import asyncpg

from tests.bench.databases import Databases
from tests.bench.measuring import take_turns
from tests.bench.report import Comparison, Report
from tests.bench.worker import MESSAGE, measure
from tests.support.database_locks import sqlite_path

BATCHES = (1, 32, 256, 1000)
ONE_ROW = "one row a commit"
WAYS = {"sqlite": ("executemany",), "postgres": ("executemany", "unnest", "COPY")}

COLUMNS = {
    "session_db_id": "bigint",
    "seq": "bigint",
    "role": "text",
    "content": "json",
    "timestamp": "timestamptz",
    "name": "json",
    "tool_call_id": "json",
    "tool_calls": "json",
    "token_count": "bigint",
    "metadata": "json",
    "extra": "json",
}
NUMBERS = range(1, len(COLUMNS) + 1)
DROP = "DROP TABLE IF EXISTS raw"
CREATE = "CREATE TABLE raw ({}, PRIMARY KEY (session_db_id, seq))".format(
    ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
)
INSERT = f"INSERT INTO raw VALUES ({', '.join(f'${number}' for number in NUMBERS)})"
INSERT_SQLITE = f"INSERT INTO raw VALUES ({', '.join('?' for _ in NUMBERS)})"
UNNEST = "INSERT INTO raw SELECT * FROM unnest({})".format(
    ", ".join(f"${number}::{kind}[]" for number, kind in zip(NUMBERS, COLUMNS.values(), strict=True))
)
CONTENT = json.dumps(MESSAGE["content"])
TIMES = {"sqlite": "2026-01-01T00:00:00.000000Z", "postgres": datetime(2026, 1, 1, tzinfo=UTC)}

Row = tuple[object, ...]
# Stores a batch in one transaction of its own, and returns when that is committed.
Write = Callable[[Sequence[Row]], Awaitable[object]]


async def run(databases: Databases, *, rounds: int, seconds: float, quick: bool) -> Report:
    """A table for each batch size on each database, and one of commits."""
    report, urls = Report(), await databases.make_empty()
    for kind, url in urls.items():
        for batch in BATCHES:
            ways = {way: partial(rows_a_second, kind, url, way, batch, seconds) for way in WAYS[kind]}
            title = f"rows by the raw driver, batches of {batch:,}, {kind}"
            report.comparisons.append(Comparison(title, "rows/s", await take_turns(ways, rounds)))
    commits = {kind: partial(rows_a_second, kind, url, ONE_ROW, 1, seconds) for kind, url in urls.items()}
    results = await take_turns(commits, rounds)
    report.comparisons.append(Comparison("commits of one row by the raw driver", "commits/s", results))
    return report


async def rows_a_second(kind: str, url: str, way: str, batch: int, seconds: float) -> float:
    """How many rows are stored in a second, in batches of this size, each committed."""
    return batch * (await measure_writes(kind, url, way, batch, seconds))["rate"]


async def measure_one_row(kind: str, url: str, seconds: float) -> dict[str, float]:
    """Commits of one row: `rate` a second, and `median` seconds of one."""
    return await measure_writes(kind, url, ONE_ROW, 1, seconds)


async def measure_writes(kind: str, url: str, way: str, batch: int, seconds: float) -> dict[str, float]:
    """Batches on one connection, one after the other, into an empty table; see `worker.measure`."""
    async with OPENERS[kind](url) as writes:
        write, first = writes[way], count(1, batch)
        return await measure(lambda _: write(make_rows(kind, next(first), batch)), 1, seconds)


def make_rows(kind: str, first: int, batch: int) -> list[Row]:
    """Messages numbered from `first` on."""
    return [make_row(kind, 1, seq) for seq in range(first, first + batch)]


def make_row(kind: str, session_db_id: int, seq: int) -> Row:
    """A message as it is stored."""
    return session_db_id, seq, "user", CONTENT, TIMES[kind], None, None, None, None, None, None


def connect_sqlite(url: str) -> sqlite3.Connection:
    """A connection that commits as durably as ours."""
    connection = sqlite3.connect(sqlite_path(url), isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


@asynccontextmanager
async def open_postgres(url: str) -> AsyncIterator[dict[str, Write]]:
    """The ways to write by one connection of asyncpg."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(DROP)
        await connection.execute(CREATE)
        insert, unnest = await connection.prepare(INSERT), await connection.prepare(UNNEST)
        yield {
            ONE_ROW: lambda rows: insert.fetch(*rows[0]),
            "executemany": insert.executemany,
            "unnest": lambda rows: unnest.fetch(*zip(*rows, strict=True)),
            "COPY": lambda rows: connection.copy_records_to_table("raw", records=rows),
        }
    finally:
        await connection.close()


@asynccontextmanager
async def open_sqlite(url: str) -> AsyncIterator[dict[str, Write]]:
    """The same of sqlite3. It blocks the event loop, in which nothing else has to run meanwhile."""
    with closing(connect_sqlite(url)) as connection:
        connection.execute(DROP)
        connection.execute(f"{CREATE} WITHOUT ROWID")

        async def write_one(rows: Sequence[Row]) -> None:
            connection.execute(INSERT_SQLITE, rows[0])

        async def write_many(rows: Sequence[Row]) -> None:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(INSERT_SQLITE, rows)
            connection.execute("COMMIT")

        yield {ONE_ROW: write_one, "executemany": write_many}


OPENERS = {"sqlite": open_sqlite, "postgres": open_postgres}
