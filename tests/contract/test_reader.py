"""What a reader keeps of what it read while others wrote, at the worst moments."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from runtime.errors import InvalidInput
from runtime.store.read.message_pages import CHUNK
from runtime.store.store import Store, open_store
from tests.support.delayed_database import Delay, delayed_store


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
        delay = database.delay("after", "list_heads")
        reading = await held(store, delay)
        await store.delete_session("s", hard=True)
        delay.release.set()
        await reading
        assert (await store.create_session("s", messages=[user("new")])).created
        assert await seqs(store) == [1]


async def test_r2_a_head_that_was_read_before_a_commit_is_not_kept(database_url: str) -> None:
    await fill(database_url, 2)
    async with delayed_store(database_url) as (store, database):
        delay = database.delay("after", "list_heads")
        reading = await held(store, delay)
        await store.append_messages("s", [user("3")])
        delay.release.set()
        assert await reading in ([1, 2], [1, 2, 3])
        await store.append_messages("s", [user("4")])
        assert await seqs(store) == [1, 2, 3, 4]


async def test_r1_messages_committed_after_the_head_was_read_are_kept_once(
    postgres_url: str,
) -> None:
    await fill(postgres_url, 2)
    async with open_store(postgres_url) as other, delayed_store(postgres_url) as (store, database):
        delay = database.delay("before", "list_page_after")
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
        saw_three = database.delay("after", "list_heads")
        first = await held(store, saw_three)
        await other.append_messages("s", [user("4")])
        read_three_and_four = database.delay("after", "list_page_after")
        second = await held(store, read_three_and_four)
        saw_three.release.set()
        assert await first == [1, 2, 3]
        read_three_and_four.release.set()
        assert await second == [1, 2, 3, 4]
        assert await seqs(store) == [1, 2, 3, 4]


async def test_a_history_is_one_that_stood_there_at_one_moment(database_url: str) -> None:
    await fill(database_url, CHUNK + 1)
    async with delayed_store(database_url) as (store, database):
        delay = database.delay("after", "list_page_after")
        reading = asyncio.create_task(store.get_history("s"))
        await delay.reached.wait()
        await store.replace_messages("s", [user("new")])
        delay.release.set()
        history = await reading
    assert [message["content"] for message in history.messages] == ["new"]
    assert (history.version, history.message_count) == (2, 1)


async def test_a_page_that_ends_behind_the_last_message_is_the_last_page(database_url: str) -> None:
    await fill(database_url, 3)
    async with open_store(database_url) as store:
        page = await store.list_messages("s", before=2**62, limit=2)
        assert (page.seqs, page.more) == ([2, 3], True)


@pytest.mark.parametrize("position", ['["2026-11-21T12:00:00Z",9223372036854775808]', '["noon",1]', "[]", ""])
async def test_a_cursor_that_is_none_is_refused(database_url: str, position: str) -> None:
    async with open_store(database_url) as store:
        with pytest.raises(InvalidInput):
            await store.list_sessions(cursor=base64.urlsafe_b64encode(position.encode()).decode())


PAGES: dict[str, Callable[[Store], Awaitable[object]]] = {
    "limit": lambda store: store.list_messages("s", limit=0),
    "last": lambda store: store.list_messages("s", last=1001),
    "before": lambda store: store.list_messages("s", before=-1),
    "after": lambda store: store.list_messages("s", after=2**63),
    "page": lambda store: store.list_numbered_page("s", page=0, page_size=10),
    "page_size": lambda store: store.list_numbered_page("s", page=1, page_size=0),
    "limit of sessions": lambda store: store.list_sessions(limit=0),
    "limit of handovers": lambda store: store.list_switches("s", limit=-1),
    "limit of turns": lambda store: store.list_turns("s", limit=0),
}


@pytest.mark.parametrize("name", PAGES)
async def test_a_page_that_there_cannot_be_is_refused(database_url: str, name: str) -> None:
    await fill(database_url, 3)
    async with open_store(database_url) as store:
        with pytest.raises(InvalidInput) as refused:
            await PAGES[name](store)
        assert refused.value.problems[0].path == name.split()[0]
