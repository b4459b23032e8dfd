"""A store on each database, and the clock that it goes by."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from runtime.config import Settings
from runtime.store.store import Store
from tests.support.running_turns import Clock, open_timed


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(database_url: str, clock: Clock) -> AsyncIterator[Store]:
    # Without the search, which writes in the background: some tests write past the store.
    async with open_timed(database_url, clock, Settings(search=False)) as store:
        yield store
