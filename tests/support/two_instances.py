"""Two instances on one Postgres, each of which has heard from the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from runtime.models import ChangedEvent
from runtime.store.store import Store, open_store


@asynccontextmanager
async def two_instances(url: str) -> AsyncIterator[tuple[Store, Store]]:
    async with open_store(url) as here, open_store(url) as there:
        await here.create_session("s")
        await _meet(here, there)
        await _meet(there, here)
        yield here, there


async def _meet(speaker: Store, listener: Store) -> None:
    """Let one hear the other: from then on it listens."""
    await speaker.create_session("greeting", if_missing=True)
    async with listener.follow("greeting") as follower, asyncio.timeout(30):
        await follower.events(0.02)
        name = (await speaker.get_session("greeting")).version
        await speaker.update_session("greeting", title=f"Hello {name}")
        while not any(isinstance(event, ChangedEvent) for event in await follower.events(60) or ()):
            pass
