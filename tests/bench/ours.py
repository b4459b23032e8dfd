"""A worker over our own store: python -m tests.bench.ours URL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from runtime.store.store import Store, open_store
from tests.bench import worker
from tests.bench.worker import MESSAGE, SESSIONS, Append


@asynccontextmanager
async def opener(url: str) -> AsyncIterator[Append]:
    """The store as a program that uses it as a library opens it."""
    async with open_store(url) as store:
        await make_sessions(store)
        yield lambda session_id: store.append_messages(session_id, [MESSAGE])


async def make_sessions(store: Store) -> None:
    """SESSIONS, those that are missing: in a new database their ids are 1, 2, 3 …, each at version 1."""
    for session_id in SESSIONS:
        await store.create_session(session_id, if_missing=True)


if __name__ == "__main__":
    worker.main(opener)
