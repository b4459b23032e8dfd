"""What the bare drivers reach on our own tables, with our own statements.

A batch in one transaction: messages spread over the sessions, and the head of each session that has grown.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from itertools import cycle, islice

import asyncpg

from runtime.db.queries import load_queries
from runtime.store.store import open_store
from tests.bench.limits import CONTENT, TIMES, Row, connect_sqlite, make_row
from tests.bench.ours import make_sessions
from tests.bench.worker import SESSIONS, measure

# The messages of a batch, and the heads, each a row of parameters.
Batch = tuple[Sequence[Row], Sequence[Row]]
# Stores a batch in one transaction of its own, and returns when that is committed.
Write = Callable[[Batch], Awaitable[object]]


async def appends_a_second(kind: str, url: str, batch: int, seconds: float) -> float:
    """How many messages are stored in a second, in batches of this size, each committed."""
    async with open_store(url) as store:
        await make_sessions(store)
    batches = make_batches(kind, batch)
    async with OPENERS[kind](url) as write:
        return batch * (await measure(lambda _: write(next(batches)), 1, seconds))["rate"]


def make_batches(kind: str, size: int) -> Iterator[Batch]:
    """Batches that each go on with the session where the one before has ended."""
    at, lengths, versions = TIMES[kind], [0] * len(SESSIONS), [1] * len(SESSIONS)
    places = cycle(range(len(SESSIONS)))
    while True:
        grown = sorted(islice(places, size))
        messages: list[Row] = []
        for place in grown:
            lengths[place] += 1
            messages.append(make_row(kind, place + 1, lengths[place]))
        heads: list[Row] = []
        for place in sorted(set(grown)):
            version, length = versions[place], lengths[place]
            versions[place] += 1
            heads.append((place + 1, version, version + 1, length, length, 0, at, 0, 1, 1, CONTENT))
        yield messages, heads


@asynccontextmanager
async def open_postgres(url: str) -> AsyncIterator[Write]:
    """One connection of asyncpg: COPY for the messages, and all heads in one statement."""
    queries = load_queries("postgres")
    connection = await asyncpg.connect(url)
    try:
        update = await connection.prepare(queries["update_head"].sql)
        columns = queries["insert_message"].parameters

        async def write(batch: Batch) -> None:
            messages, heads = batch
            async with connection.transaction():
                await connection.copy_records_to_table("messages", records=messages, columns=columns)
                await update.fetch(*zip(*heads, strict=True))

        yield write
    finally:
        await connection.close()


@asynccontextmanager
async def open_sqlite(url: str) -> AsyncIterator[Write]:
    """One connection of sqlite3. It blocks the event loop, in which nothing else has to run meanwhile."""
    queries = load_queries("sqlite")
    insert, update = queries["insert_message"].sql, queries["update_head"].sql
    with closing(connect_sqlite(url)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")

        async def write(batch: Batch) -> None:
            messages, heads = batch
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(insert, messages)
            connection.executemany(update, heads)
            connection.execute("COMMIT")

        yield write


OPENERS = {"sqlite": open_sqlite, "postgres": open_postgres}
