"""The databases that tests run on. Every test gets fresh ones, migrated and empty.

    database_url         a URL; the test runs once on SQLite and once on Postgres
    database             the same, opened
    empty_database_url   a URL of each kind where nothing was ever migrated
    postgres_url         a migrated Postgres only
    sqlite_url           a migrated SQLite only
    postgres_server      the server: for tests that make databases themselves

Processes that a test starts may use the URLs as well. Where Postgres does not start, tests fail: none is
skipped.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import coverage
import pytest
from hypothesis import settings

from runtime.db.connect import open_database
from runtime.db.database import Database
from runtime.db.migrate import apply_migrations
from tests.faults.options import pytest_addoption, pytest_terminal_summary  # noqa: F401 - for pytest
from tests.support.postgres_server import PostgresServer, run_server

DIALECTS = ("sqlite", "postgres")

# Every test in these folders starts processes, breaks something, migrates, or drives the interfaces of the
# earlier service, which change least: all are marked `slow`. A slow test elsewhere is marked in its module.
SLOW_FOLDERS = ("compat", "faults", "migrations", "process")

# The same examples every time; `--hypothesis-profile=long` draws twenty times as many, and new ones.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("long", max_examples=2000, deadline=None)
settings.load_profile("steady")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the slow folders."""
    tests = Path(__file__).parent
    for item in items:
        if item.path.relative_to(tests).parts[0] in SLOW_FOLDERS:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def uncounted() -> Iterator[None]:
    """Coverage does not count meanwhile: long tests would be longer, and show little that others miss."""
    counting = coverage.Coverage.current()
    if counting is not None:
        counting.stop()
    yield
    if counting is not None:
        counting.start()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    with run_server(in_memory=True) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> str:
    """The name of a migrated database, to make others from."""
    name = postgres_server.create()
    _migrate(postgres_server.url(name))
    return name


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated file, to copy."""
    path = tmp_path_factory.mktemp("template") / "template.db"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def postgres_url(postgres_server: PostgresServer, postgres_template: str) -> Iterator[str]:
    name = postgres_server.create(postgres_template)
    yield postgres_server.url(name)
    postgres_server.drop(name)


@pytest.fixture
def sqlite_url(tmp_path: Path, sqlite_template: Path) -> str:
    path = tmp_path / "agent_runtime.db"
    shutil.copyfile(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture(params=DIALECTS)
def database_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await open_database(database_url)
    yield database
    await database.close()


@pytest.fixture
def empty_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    name = postgres_server.create()
    yield postgres_server.url(name)
    postgres_server.drop(name)


@pytest.fixture
def empty_sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'empty' / 'agent_runtime.db'}"


@pytest.fixture(params=DIALECTS)
def empty_database_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"empty_{request.param}_url")
    return url


def _migrate(url: str) -> None:
    # In a thread: a fixture must leave the event loop of this one alone.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, apply_migrations(url)).result()
