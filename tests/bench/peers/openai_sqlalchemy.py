"""OpenAI Agents SDK, `SQLAlchemySession`: an object for each conversation, all over one engine.

The tables are made beforehand, as in production. On SQLite it repeats by itself what found the file locked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agents.extensions.memory import SQLAlchemySession

from tests.bench import worker
from tests.bench.peers.places import open_engine
from tests.bench.worker import MESSAGE, SESSIONS, Append


@asynccontextmanager
async def opener(url: str) -> AsyncIterator[Append]:
    """`add_items` of one message."""
    async with open_engine(url) as engine:
        await SQLAlchemySession("first", engine=engine, create_tables=True).get_items()
        sessions = {name: SQLAlchemySession(name, engine=engine) for name in SESSIONS}
        yield lambda name: sessions[name].add_items([MESSAGE])


if __name__ == "__main__":
    worker.main(opener)
