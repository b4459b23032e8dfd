"""A store whose eraser waits, and what is left in the database for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from runtime.errors import SessionNotFound
from runtime.store.store import Store
from tests.migrations.catalogue import query
from tests.support.delayed_database import delayed_store
from tests.support.running_turns import user

# More than is erased in the transaction that takes it away.
LENGTH = 2_500
WORDS = [user("The first"), user("The second")]


@asynccontextmanager
async def held(url: str) -> AsyncIterator[tuple[Store, asyncio.Event]]:
    """A store whose eraser does not begin until the event is set."""
    async with delayed_store(url) as (store, database):
        delay = database.delay("before", "find_erasable")
        await delay.reached.wait()
        yield store, delay.release


async def gone(store: Store, session_id: str) -> None:
    """Wait until a deletion is committed."""
    async with asyncio.timeout(60):
        with contextlib.suppress(SessionNotFound):
            while True:
                await store.get_session(session_id)


async def erased(store: Store) -> None:
    """Wait until nothing is left to erase."""
    async with asyncio.timeout(60):
        while (await store._core.database.fetch("find_erasable"))[0]["found"]:  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(0.01)


def count(url: str, table: str = "messages") -> int:
    """The rows that a table has, also of what is gone."""
    return int(query(url, f"SELECT count(*) FROM {table}")[0][0])


async def seqs(store: Store) -> list[int]:
    """The numbers of a session's messages, read in every way that there is: all must agree."""
    page = await store.list_messages("s", after=0, limit=1000)
    backwards = await store.list_messages("s", last=1000)
    by_role = await store.list_messages("s", role="user", limit=1000)
    numbered = await store.list_numbered_page("s", page=1, page_size=1000)
    assert page.seqs == backwards.seqs == by_role.seqs == numbered.seqs
    history = await store.get_history("s")
    stats = await store.get_stats("s")
    assert len(page.seqs) == history.message_count == stats.message_count
    assert await store._core.database.fetch("list_wrong_heads", 10) == []
    return page.seqs
