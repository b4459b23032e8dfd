"""W8: one row that the database refuses, in a batch of five hundred."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from random import Random
from typing import Any

import aiohttp
import pytest

from runtime.config import Settings
from runtime.db.connect import open_database
from runtime.db.database import Database, Transaction
from runtime.errors import RefusedByDatabase
from runtime.metrics import Metrics
from runtime.store.core import Core
from runtime.store.store import Store
from runtime.store.write.outcomes import Appended
from tests.faults.asking import Asker, Target
from tests.faults.conftest import Report
from tests.faults.journal import Journal
from tests.faults.stored import read_database
from tests.support.database_locks import POISON, poison
from tests.support.server_process import start_server

BATCH, SESSIONS = 500, 5
# The whole, and both halves of what is refused, down to one: 500, 250, 125, 63, 32, 16, 8, 4, 2.
MOST_TRANSACTIONS = 1 + 2 * 9


class Counted:
    """A real database that counts its transactions, those that fail as well."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.transactions = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def transaction(self, **options: Any) -> AbstractAsyncContextManager[Transaction]:
        self.transactions += 1
        return self._database.transaction(**options)


@asynccontextmanager
async def counted_store(url: str) -> AsyncIterator[tuple[Store, Counted]]:
    database = Counted(await open_database(url))
    store = Store(Core(database, Settings(search=False), Metrics()))
    try:
        yield store, database
    finally:
        await store.close(10)


@pytest.mark.rounds(5)
async def test_w8_a_poisoned_row_in_a_batch_of_500_fails_alone(
    database_url: str, rounds: int, seed: int, report: Report
) -> None:
    await poison(database_url)
    chance = Random(seed)
    async with counted_store(database_url) as (store, database):
        for n in range(SESSIONS):
            await store.create_session(f"s{n}")
        most = 0
        for turn in range(rounds):
            bad = (0, BATCH - 1)[turn] if turn < 2 else chance.randrange(BATCH)
            before = database.transactions
            results = await asyncio.gather(*appends(store, turn, bad), return_exceptions=True)
            most = max(most, database.transactions - before)
            assert [n for n, result in enumerate(results) if isinstance(result, RefusedByDatabase)] == [bad]
            assert sum(isinstance(result, Appended) for result in results) == BATCH - 1
            await check_stored(store, turn, bad)
    report(batch=BATCH, transactions=most)
    assert most <= MOST_TRANSACTIONS


def appends(store: Store, turn: int, bad: int) -> list[Any]:
    """One message each, in turn to every session."""
    return [store.append_messages(f"s{n % SESSIONS}", [user(turn, n, bad)]) for n in range(BATCH)]


def user(turn: int, n: int, bad: int) -> dict[str, str]:
    return {"role": "user", "content": POISON if n == bad else f"{turn} {n}"}


async def check_stored(store: Store, turn: int, bad: int) -> None:
    """Each session has its own, in order, and no gap in its numbers."""
    for session in range(SESSIONS):
        wanted = [f"{turn} {n}" for n in range(session, BATCH, SESSIONS) if n != bad]
        page = await store.list_messages(f"s{session}", last=len(wanted))
        assert [message["content"] for message in page.messages] == wanted
        numbers = [message["seq"] for message in page.messages]
        assert numbers == list(range(numbers[0], numbers[0] + len(wanted)))


async def test_w8_over_http_poisoned_rows_are_refused_alone(
    database_url: str, seed: int, report: Report
) -> None:
    await poison(database_url)
    bad = set(Random(seed).sample(range(BATCH), 3))
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        with start_server({"DB_URL": database_url, "ACCESS_LOG": "off"}) as server:
            asker, target = Asker(http, Journal(), {}, timeout=30), Target("server", server.url)
            assert (await asker.ask(target, "PUT", "/sessions/s")).status == 201
            statuses = await asyncio.gather(*(append(asker, target, n, bad) for n in range(BATCH)))
            assert server.stop() == 0
    assert {n for n, status in enumerate(statuses) if status == 422} == bad
    assert statuses.count(201) == BATCH - len(bad)
    messages = read_database(database_url)["s"].messages
    assert [seq for seq, _ in messages] == list(range(1, BATCH - len(bad) + 1))
    assert sorted(content for _, content in messages) == sorted(f"0 {n}" for n in set(range(BATCH)) - bad)
    report(requests=BATCH, refused=len(bad))


async def append(asker: Asker, target: Target, n: int, bad: set[int]) -> int:
    body = {"role": "user", "content": POISON if n in bad else f"0 {n}"}
    return (await asker.ask(target, "POST", "/sessions/s/messages", body)).status
