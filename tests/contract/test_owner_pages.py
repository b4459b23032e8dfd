"""Pages of owners: complete, in order, and of bounded work."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from random import Random

import asyncpg
import pytest

from runtime.config import Settings
from runtime.db.queries import load_queries
from runtime.errors import InvalidInput
from runtime.models import Owner, OwnerPage
from runtime.store.read import owner_reader
from runtime.store.store import Store, open_store
from tests.support.database_locks import execute, sqlite_path
from tests.support.held_eraser import LENGTH, held
from tests.support.long_sessions import make_session
from tests.support.running_turns import Clock, user

pytestmark = pytest.mark.slow

# In the order of their bytes, which is that of both databases.
NAMES = ["", "A", "Zoë", "a", "a b", "a'b", "alice", "alice@example.com", "b", "x" * 255, "Ω", "日本", "🦊"]


async def all_pages(store: Store, limit: int) -> list[OwnerPage]:
    pages = [await store.list_owners(limit=limit)]
    while pages[-1].next_cursor is not None:
        pages.append(await store.list_owners(limit=limit, cursor=pages[-1].next_cursor))
    return pages


async def all_owners(store: Store, limit: int = 1000) -> list[Owner]:
    return [owner for page in await all_pages(store, limit) for owner in page.owners]


async def names(store: Store, limit: int = 1000) -> list[str]:
    return [owner.owner for owner in await all_owners(store, limit)]


async def test_nobody_has_anything(store: Store) -> None:
    assert await store.list_owners() == OwnerPage([], None)


async def test_an_owner_with_its_numbers(store: Store, clock: Clock) -> None:
    await store.create_session("one", owner="alice", messages=[user("x"), user("y")])
    await store.create_session("two", owner="alice", messages=[user("x")])
    await store.create_session("three", owner="alice")
    latest = clock.now
    clock.pass_seconds(60)
    await store.delete_session("two", owner="alice")
    assert await all_owners(store) == [Owner("alice", 2, 1, 3, latest)]
    clock.pass_seconds(60)
    await store.append_messages("one", [user("z")], owner="alice")
    assert await all_owners(store) == [Owner("alice", 2, 1, 4, clock.now)]
    # Who has nothing but what is deleted is an owner still.
    for session_id in ("one", "three"):
        await store.delete_session(session_id, owner="alice")
    assert await all_owners(store) == [Owner("alice", 0, 3, 4, clock.now)]


async def test_a_page_of_any_length_skips_and_repeats_nobody(store: Store) -> None:
    for name in NAMES:
        await store.create_session("s", owner=name)
    for limit in (1, 2, 3, len(NAMES) - 1, len(NAMES), len(NAMES) + 1, 1000):
        pages = await all_pages(store, limit)
        assert [owner.owner for page in pages for owner in page.owners] == NAMES
        assert max(len(page.owners) for page in pages) <= limit
        assert all(page.owners for page in pages)


async def test_numbers_are_those_of_the_sessions(store: Store) -> None:
    random, expected = Random(13), defaultdict[str, list[int]](lambda: [0, 0, 0])
    for number in range(60):
        owner, messages, is_deleted = random.choice(NAMES), random.randint(0, 3), random.random() < 0.3
        await store.create_session(f"s{number}", owner=owner, messages=[user("x")] * messages)
        if is_deleted:
            await store.delete_session(f"s{number}", owner=owner)
        expected[owner][is_deleted] += 1
        expected[owner][2] += messages
    for limit in (1, 5, 50):
        found = await all_owners(store, limit)
        assert {o.owner: [o.sessions, o.deleted_sessions, o.messages] for o in found} == expected
        assert not any(owner.at_least for owner in found)


@pytest.mark.parametrize("most", [1, 2, 3, 5, 8, 13])
async def test_a_page_ends_early_where_much_would_be_counted(
    store: Store, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(owner_reader, "MOST_COUNTED", most)
    sizes = {"": 2, "a": 1, "b": 7, "c": 1, "d": 1, "e": 9, "f": 3}
    for owner, count in sizes.items():
        for number in range(count):
            await store.create_session(f"s{number}", owner=owner, messages=[user("x")])
    pages = await all_pages(store, 1000)
    found = [owner for page in pages for owner in page.owners]
    assert [owner.owner for owner in found] == list(sizes)
    for each in found:
        size = sizes[each.owner]
        assert each.at_least == (size > most)
        assert each.sessions == each.messages == min(size, most + 1)
    for page in pages:
        assert len(page.owners) == 1 or sum(owner.sessions for owner in page.owners) <= most


async def test_owners_who_come_and_go_between_pages(store: Store) -> None:
    for name in ("b", "d", "f", "h"):
        await store.create_session("s", owner=name)
    first = await store.list_owners(limit=2)
    await store.delete_session("s", owner="f", hard=True)
    for name in ("a", "g"):
        await store.create_session("s", owner=name)
    second = await store.list_owners(limit=2, cursor=first.next_cursor)
    assert [[owner.owner for owner in page.owners] for page in (first, second)] == [["b", "d"], ["g", "h"]]


async def test_what_was_accepted_is_there(database_url: str) -> None:
    async with open_store(database_url, Settings(flush_interval=3600.0)) as store:
        await store.replace_messages("s", [user("x")], create=True, durability="buffered", owner="alice")
        assert await names(store) == ["alice"]


async def test_what_is_still_to_be_erased_belongs_to_nobody(database_url: str) -> None:
    await make_session(database_url, "s", LENGTH)
    async with held(database_url) as (store, begin):
        deleting = asyncio.create_task(store.delete_session("s", hard=True))
        async with asyncio.timeout(60):
            while await names(store):  # noqa: ASYNC110 - no event says so
                await asyncio.sleep(0)
        begin.set()
        await deleting


@pytest.mark.parametrize("cursor", ["x", "!", "AAAA", "gA", "", "_-" * 400, "e30"[:1]])
async def test_a_cursor_is_one_of_a_page(store: Store, cursor: str) -> None:
    with pytest.raises(InvalidInput, match="next_cursor"):
        await store.list_owners(cursor=cursor)


@pytest.mark.parametrize("limit", [0, -1, 1001])
async def test_a_page_has_a_length(store: Store, limit: int) -> None:
    with pytest.raises(InvalidInput):
        await store.list_owners(limit=limit)


# The work of a page

COLUMNS = (
    "owner, session_id, metadata, created_at, last_activity, is_active, version, last_seq, message_count,"
    " token_total, cut_version, changed_version"
)
TIME = "'2026-01-01T00:00:00.000000Z'"
VALUES = f"'s' || n, '{{{{}}}}', {TIME}, {TIME}, {{true}}, 1, 1, 1, 0, 0, 0"
LARGE, SMALL, COUNTED = 30_000, 3_000, 1_000


async def fill(url: str, owner: str, count: int) -> None:
    series = f"WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {count})"
    insert = f"INSERT INTO sessions ({COLUMNS}) {series} SELECT '{owner}', {{values}} FROM n; ANALYZE;"
    postgres = VALUES.format(true="true").replace(TIME, f"{TIME}::timestamptz")
    postgres = postgres.replace("'{}'", "'{}'::json")
    await execute(url, insert.format(values=VALUES.format(true=1)), insert.format(values=postgres))


async def work(url: str, owner: str) -> dict[str, int]:
    """What a page costs: instructions of SQLite's virtual machine, or pages that Postgres looked at."""
    calls = {"list_owners": [owner, 5], "count_sessions_by_owner": [owner, "~", COUNTED]}
    if url.startswith("sqlite"):
        queries = load_queries("sqlite")
        return {name: _instructions(url, queries[name].sql, calls[name]) for name in calls}
    connection = await asyncpg.connect(url)
    measured = {}
    for name, parameters in calls.items():
        sql = load_queries("postgres")[name].sql
        explained = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", *parameters)
        plan = json.loads(explained)[0]["Plan"]
        measured[name] = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    await connection.close()
    return measured


def _instructions(url: str, sql: str, parameters: Sequence[object]) -> int:
    steps: list[None] = []
    with closing(sqlite3.connect(sqlite_path(url))) as connection:
        connection.set_progress_handler(lambda: steps.append(None), 1)
        connection.execute(sql, parameters).fetchall()
        connection.set_progress_handler(None, 0)
    return len(steps)


@pytest.mark.slow
async def test_r3_a_page_is_the_same_work_however_many_sessions_an_owner_has(database_url: str) -> None:
    await fill(database_url, "small", SMALL)
    before = await work(database_url, "small")
    await fill(database_url, "large", LARGE)
    after = await work(database_url, "large")
    assert all(count > 0 for count in before.values())
    more = {name: (before[name], after[name]) for name in before if after[name] > 1.5 * before[name] + 50}
    assert more == {}
