"""A store on each database, and the clock that it goes by."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from runtime.store.store import Store, open_store
from tests.contract.running import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(database_url: str, clock: Clock) -> AsyncIterator[Store]:
    async with open_store(database_url, clock=clock) as store:
        yield store
