"""Puts sessions into a database of the usual service.

python -m tests.bench.usual_way.fill URL SESSIONS MESSAGES
"""

from __future__ import annotations

import asyncio
import sys

from tests.bench.peers.places import open_engine
from tests.bench.usual_way.conversations import Conversations
from tests.bench.worker import MESSAGE


async def main(url: str, sessions: int, messages: int) -> None:
    """Make so many sessions, `session-0` first, of so many messages each."""
    async with open_engine(url) as engine:
        conversations = Conversations(engine)
        await conversations.load()
        for number in range(sessions):
            made = await conversations.create(f"session-{number}", None)
            for _ in range(messages):
                conversations.append(made.session_id, MESSAGE["role"], MESSAGE["content"])
            await conversations.store(made)


if __name__ == "__main__":
    url, sessions, messages = sys.argv[1:]
    asyncio.run(main(url, int(sessions), int(messages)))
