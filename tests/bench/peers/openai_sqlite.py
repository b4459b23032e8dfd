"""OpenAI Agents SDK, `SQLiteSession`: an object for each conversation, all over one file.

By itself it turns WAL on, and has each append done in a thread, one at a time for each file.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agents import SQLiteSession

from tests.bench import worker
from tests.bench.peers.places import sqlite_path
from tests.bench.worker import MESSAGE, SESSIONS, Append


@asynccontextmanager
async def opener(url: str) -> AsyncIterator[Append]:
    """`add_items` of one message."""
    sessions = {name: SQLiteSession(name, sqlite_path(url)) for name in SESSIONS}
    yield lambda name: sessions[name].add_items([MESSAGE])
    for session in sessions.values():
        session.close()


if __name__ == "__main__":
    worker.main(opener)
