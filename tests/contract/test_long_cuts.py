"""Long cuts take effect in one step, also while an earlier one is still to be erased."""

from __future__ import annotations

import asyncio

import pytest

from runtime.store.write.outcomes import Replaced
from tests.migrations.catalogue import query
from tests.support.delayed_database import delayed_store
from tests.support.held_eraser import LENGTH, WORDS, count, erased, held, seqs
from tests.support.long_sessions import make_session
from tests.support.running_turns import user

pytestmark = pytest.mark.slow


async def test_a_long_cut_takes_effect_at_once(database_url: str) -> None:
    await make_session(database_url, "s", LENGTH)
    async with held(database_url) as (store, begin):
        cut = await store.truncate_messages("s", after=5)
        assert (cut.deleted, cut.last_seq) == (LENGTH - 5, LENGTH)
        assert count(database_url) == LENGTH
        assert await seqs(store) == [1, 2, 3, 4, 5]
        appended = await store.append_messages("s", WORDS)
        assert appended.last_seq == LENGTH + 2, "W4: numbers are not used again"
        assert await seqs(store) == [1, 2, 3, 4, 5, LENGTH + 1, LENGTH + 2]
        begin.set()
        await erased(store)
        assert await seqs(store) == [1, 2, 3, 4, 5, LENGTH + 1, LENGTH + 2]
        assert count(database_url) == 7


async def test_a_cut_that_overlaps_with_what_is_left_is_one_with_it(database_url: str) -> None:
    await make_session(database_url, "s", LENGTH)
    async with held(database_url) as (store, begin):
        await store.truncate_messages("s", after=5)
        await store.append_messages("s", WORDS)
        assert (await store.truncate_messages("s", after=100)).deleted == 2
        await store.append_messages("s", WORDS)
        assert (await store.truncate_messages("s", after=3)).deleted == 4
        assert query(database_url, "SELECT cut_after, cut_through FROM sessions") == [(3, LENGTH + 4)]
        await store.append_messages("s", WORDS)
        assert await seqs(store) == [1, 2, 3, LENGTH + 5, LENGTH + 6]
        begin.set()
        await erased(store)
        assert await seqs(store) == [1, 2, 3, LENGTH + 5, LENGTH + 6]
        assert count(database_url) == 5


async def test_a_cut_behind_what_is_left_is_erased_at_once(database_url: str) -> None:
    """One range can be noted. What was added since then is as much as was written in that time, seldom more
    than a little."""
    await make_session(database_url, "s", LENGTH)
    async with held(database_url) as (store, begin):
        await store.truncate_messages("s", after=5)
        await store.append_messages("s", WORDS * 700)
        assert (await store.truncate_messages("s", after=LENGTH + 2)).deleted == 1398
        assert count(database_url) == LENGTH + 2
        assert await seqs(store) == [1, 2, 3, 4, 5, LENGTH + 1, LENGTH + 2]
        begin.set()
        await erased(store)
        assert await seqs(store) == [1, 2, 3, 4, 5, LENGTH + 1, LENGTH + 2]


async def test_a_history_that_is_replaced_leaves_the_old_one_to_be_erased(database_url: str) -> None:
    await make_session(database_url, "s", LENGTH)
    async with held(database_url) as (store, begin):
        first = (await store.list_messages("s", after=0, limit=1)).messages[0]["content"]
        replaced = await store.replace_messages("s", [user(first), *WORDS])
        assert isinstance(replaced, Replaced)
        assert [receipt.seq for receipt in replaced.messages] == [1, LENGTH + 1, LENGTH + 2]
        assert await seqs(store) == [1, LENGTH + 1, LENGTH + 2]
        assert count(database_url) == LENGTH + 2
        # What is compared with the next history is what is there.
        again = await store.replace_messages("s", [user(first), *WORDS, *WORDS])
        assert isinstance(again, Replaced)
        assert [receipt.seq for receipt in again.messages] == [1, *range(LENGTH + 1, LENGTH + 5)]
        await store.delete_session("s")
        await store.restore_session("s")
        begin.set()
        await erased(store)
        assert await seqs(store) == [1, *range(LENGTH + 1, LENGTH + 5)]
        assert count(database_url) == 5


async def test_a_turn_begins_where_the_history_ends_in_front_of_what_is_left(database_url: str) -> None:
    await make_session(database_url, "s", LENGTH)
    async with held(database_url) as (store, _):
        await store.truncate_messages("s", after=5)
        await store.turns.start_turn("s", messages=[user("Why?")])
        assert await seqs(store) == [1, 2, 3, 4, 5, LENGTH + 1]


async def test_a_cut_that_another_one_comes_before_is_counted_anew(database_url: str) -> None:
    await make_session(database_url, "s", LENGTH)
    async with delayed_store(database_url) as (store, database):
        counted = database.delay("after", "sum_messages_after")
        cutting = asyncio.create_task(store.truncate_messages("s", after=5))
        await counted.reached.wait()
        assert (await store.truncate_messages("s", after=1200)).deleted == LENGTH - 1200
        counted.release.set()
        assert (await cutting).deleted == 1195
        assert await seqs(store) == [1, 2, 3, 4, 5]


async def test_a_cut_counts_what_was_added_while_it_was_counted(database_url: str) -> None:
    await make_session(database_url, "s", LENGTH)
    async with delayed_store(database_url) as (store, database):
        counted = database.delay("after", "sum_messages_after")
        cutting = asyncio.create_task(store.truncate_messages("s", after=5))
        await counted.reached.wait()
        await store.append_messages("s", [{**user("more"), "token_count": 7}])
        counted.release.set()
        assert (await cutting).deleted == LENGTH - 4
        assert await seqs(store) == [1, 2, 3, 4, 5]
        assert (await store.get_stats("s")).total_tokens == 0
