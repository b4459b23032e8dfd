"""What a reader keeps of what it read while others wrote, at the worst moments."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

from runtime.config import Settings
from runtime.db.database import Database, Row, open_database
from runtime.metrics import Metrics
from runtime.store.store import Store, open_store

Moment = tuple[str, Literal["before", "after"]]


class Delay:
    """One statement that takes long: `reached` is set when it has come so far, `release` lets it go on."""

    def __init__(self) -> None:
        self.reached, self.release = asyncio.Event(), asyncio.Event()


class Delayed:
    """A database on which the next run of a statement can be held: before it, or before its answer comes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._delays: dict[Moment, Delay] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def delay(self, when: Literal["before", "after"], statement: str) -> Delay:
        """Hold the statement once."""
        delay = self._delays[statement, when] = Delay()
        return delay

    async def fetch(self, statement: str, *parameters: object) -> Sequence[Row]:
        await self._pass(statement, "before")
        rows = await self._database.fetch(statement, *parameters)
        await self._pass(statement, "after")
        return rows

    async def _pass(self, statement: str, when: Literal["before", "after"]) -> None:
        if delay := self._delays.pop((statement, when), None):
            delay.reached.set()
            await delay.release.wait()


@asynccontextmanager
async def delayed_store(url: str) -> AsyncIterator[tuple[Store, Delayed]]:
    database = Delayed(await open_database(url))
    store = Store(database, Settings(), Metrics())
    try:
        yield store, database
    finally:
        await store.close(1)


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


async def fill(url: str, count: int) -> None:
    async with open_store(url) as store:
        await store.create_session("s", messages=[user(str(n)) for n in range(count)])


async def seqs(store: Store) -> list[int]:
    return (await store.list_messages("s")).seqs


async def held(store: Store, delay: Delay) -> asyncio.Task[list[int]]:
    """A reading that has come to its delay."""
    reading = asyncio.create_task(seqs(store))
    await delay.reached.wait()
    return reading


async def test_r2_a_head_that_was_read_before_an_erasure_is_not_kept(database_url: str) -> None:
    await fill(database_url, 2)
    async with delayed_store(database_url) as (store, database):
        delay = database.delay("after", "find_head")
        reading = await held(store, delay)
        await store.delete_session("s", hard=True)
        delay.release.set()
        await reading
        assert (await store.create_session("s", messages=[user("new")])).created
        assert await seqs(store) == [1]


async def test_r2_a_head_that_was_read_before_a_commit_is_not_kept(database_url: str) -> None:
    await fill(database_url, 2)
    async with delayed_store(database_url) as (store, database):
        delay = database.delay("after", "find_head")
        reading = await held(store, delay)
        await store.append_messages("s", [user("3")])
        delay.release.set()
        assert await reading in ([1, 2], [1, 2, 3])
        await store.append_messages("s", [user("4")])
        assert await seqs(store) == [1, 2, 3, 4]


async def test_r1_messages_that_were_committed_after_the_head_was_read_are_kept_once(
    postgres_url: str,
) -> None:
    await fill(postgres_url, 2)
    async with open_store(postgres_url) as other, delayed_store(postgres_url) as (store, database):
        delay = database.delay("before", "list_messages_after")
        reading = await held(store, delay)
        await other.append_messages("s", [user("3")])
        delay.release.set()
        assert await reading == [1, 2]
        assert await seqs(store) == [1, 2, 3]


async def test_r1_readers_who_catch_up_at_once_keep_each_message_once(postgres_url: str) -> None:
    await fill(postgres_url, 2)
    async with open_store(postgres_url) as other, delayed_store(postgres_url) as (store, database):
        assert await seqs(store) == [1, 2]
        await other.append_messages("s", [user("3")])
        saw_three = database.delay("after", "find_head")
        first = await held(store, saw_three)
        await other.append_messages("s", [user("4")])
        read_three_and_four = database.delay("after", "list_messages_after")
        second = await held(store, read_three_and_four)
        saw_three.release.set()
        assert await first == [1, 2, 3]
        read_three_and_four.release.set()
        assert await second == [1, 2, 3, 4]
        assert await seqs(store) == [1, 2, 3, 4]
