"""A `Database` on each database, and nothing that is left open or chosen behind a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from runtime.compat import agent_context_async, database, database_service, session_manager_async
from runtime.compat.database import Database
from runtime.compat.store_thread import close_all


@pytest.fixture(autouse=True)
def _as_in_a_new_process() -> Iterator[None]:
    """Close what the test has opened, and forget the objects that all share."""
    yield
    close_all()
    database._shared = None
    database_service._url = None
    session_manager_async.session_manager = None
    agent_context_async.agent_context_manager = None


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    yield Database(database_url)
    # Before the database is dropped.
    close_all()


@pytest.fixture
def chosen(database_url: str) -> Iterator[str]:
    """A database that `init_database` has chosen, and that is not open yet."""
    database_service.init_database(database_url)
    yield database_url
    close_all()
