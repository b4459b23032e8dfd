"""OpenAI Agents SDK, `AsyncSQLiteSession`: an object for each conversation, all over one file.

Each has a connection of its own, with WAL, and they do not wait for each other in Python. SQLite lets one
write at a time and has the others sleep, longer each time. Where they take turns they are one and a half to
three times faster, so they take turns here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agents.extensions.memory import AsyncSQLiteSession

from tests.bench import worker
from tests.bench.peers.places import sqlite_path
from tests.bench.worker import MESSAGE, SESSIONS, Append


@asynccontextmanager
async def opener(url: str) -> AsyncIterator[Append]:
    """`add_items` of one message, one at a time."""
    sessions = {name: AsyncSQLiteSession(name, sqlite_path(url)) for name in SESSIONS}
    turn = asyncio.Lock()

    async def append(name: str) -> None:
        async with turn:
            await sessions[name].add_items([MESSAGE])

    yield append
    for session in sessions.values():
        await session.close()


if __name__ == "__main__":
    worker.main(opener)
