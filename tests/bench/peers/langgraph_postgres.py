"""LangGraph, `AsyncPostgresSaver`: one saver over a pool of 16, as its documentation has it.

The saver has a lock of its own and so uses one connection at a time: see langgraph_postgres_savers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool

from tests.bench import worker
from tests.bench.peers.langgraph_threads import Thread
from tests.bench.peers.places import POOL_SIZE
from tests.bench.worker import SESSIONS, Append

Pool = AsyncConnectionPool[AsyncConnection[DictRow]]
# As the documentation asks of whoever makes the connections.
CONNECTION = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}


@asynccontextmanager
async def open_pool(url: str) -> AsyncIterator[Pool]:
    """A pool to a database that has the saver's tables."""
    async with AsyncConnectionPool(url, min_size=POOL_SIZE, max_size=POOL_SIZE, kwargs=CONNECTION) as pool:
        await AsyncPostgresSaver(pool).setup()
        yield pool


@asynccontextmanager
async def opener(url: str) -> AsyncIterator[Append]:
    """A checkpoint for each message."""
    async with open_pool(url) as pool:
        saver = AsyncPostgresSaver(pool)
        threads = {name: Thread(saver, name) for name in SESSIONS}
        yield lambda name: threads[name].append()


if __name__ == "__main__":
    worker.main(opener)
