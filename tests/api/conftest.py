from collections.abc import AsyncIterator

import pytest

from tests.support.api_server import Client, serving


@pytest.fixture
async def client(database_url: str) -> AsyncIterator[Client]:
    async with serving(database_url) as client:
        yield client
