from collections.abc import AsyncIterator

import pytest

from tests.api.serving import Client, serving


@pytest.fixture
async def client(database_url: str) -> AsyncIterator[Client]:
    async with serving(database_url) as client:
        yield client
