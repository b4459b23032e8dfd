"""LangGraph, `AsyncPostgresSaver`: a saver for each thread, all over one pool of 16.

No documentation says so, but it is the way round the lock of a saver, which keeps a pool from being used.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

from tests.bench import worker
from tests.bench.peers.langgraph_postgres import open_pool
from tests.bench.peers.langgraph_threads import Thread
from tests.bench.worker import SESSIONS, Append


@asynccontextmanager
async def opener(url: str) -> AsyncIterator[Append]:
    """A checkpoint for each message."""
    async with open_pool(url) as pool:
        threads = {name: Thread(AsyncPostgresSaver(pool), name) for name in SESSIONS}
        yield lambda name: threads[name].append()


if __name__ == "__main__":
    worker.main(opener)
