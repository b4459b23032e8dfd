"""LangGraph, `AsyncSqliteSaver`: one saver with its one connection, and WAL, which it turns on by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from tests.bench import worker
from tests.bench.peers.langgraph_threads import Thread
from tests.bench.peers.places import sqlite_path
from tests.bench.worker import SESSIONS, Append


@asynccontextmanager
async def opener(url: str) -> AsyncIterator[Append]:
    """A checkpoint for each message."""
    async with AsyncSqliteSaver.from_conn_string(sqlite_path(url)) as saver:
        await saver.setup()
        threads = {name: Thread(saver, name) for name in SESSIONS}
        yield lambda name: threads[name].append()


if __name__ == "__main__":
    worker.main(opener)
