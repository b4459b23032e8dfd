"""Following a session: each message once and in order, and a note of all else, on every instance (R2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from runtime.errors import SessionNotFound
from runtime.models import ChangedEvent, MessageEvent
from runtime.store.changes import ALL_CHANGES, MAX_NOTIFICATION, CommittedChange, encode_notification
from runtime.store.follow.session_follower import PAGE, SessionFollower
from runtime.store.records import Head, SessionKey
from runtime.store.store import Store, open_store
from tests.support.delayed_database import delayed_store
from tests.support.random_values import NOON
from tests.support.two_instances import two_instances

# Longer than any test may take: what comes earlier was not found by looking again.
LONG = 60.0
# Just long enough to see that nothing comes.
MOMENT = 0.02


def user(content: object) -> dict[str, Any]:
    return {"role": "user", "content": str(content)}


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    async with open_store(database_url) as store:
        await store.create_session("s")
        yield store


async def append(store: Store, *contents: object) -> None:
    await store.append_messages("s", [user(content) for content in contents])


async def next_events(follower: SessionFollower) -> list[MessageEvent | ChangedEvent]:
    """What comes next. Fails where nothing does, or the stream has ended."""
    async with asyncio.timeout(LONG / 2):
        events = await follower.events(LONG)
    assert events, events
    return events


async def next_messages(follower: SessionFollower, last_seq: int) -> list[int]:
    """The numbers of the messages that come, up to this one."""
    seqs: list[int] = []
    while not seqs or seqs[-1] < last_seq:
        seqs += [event.seq for event in await next_events(follower) if isinstance(event, MessageEvent)]
    return seqs


async def next_change(follower: SessionFollower) -> ChangedEvent:
    """The next note of a change; there may be messages before it."""
    while True:
        for event in await next_events(follower):
            if isinstance(event, ChangedEvent):
                return event


async def end_of(follower: SessionFollower) -> None:
    async with asyncio.timeout(LONG / 2):
        assert await follower.events(LONG) is None
        assert await follower.events(LONG) is None, "an ended stream stays ended"


@pytest.mark.parametrize("after", [0, 2, 4, 5])
async def test_a_follower_begins_behind_the_message_that_it_names(store: Store, after: int) -> None:
    await append(store, 1, 2, 3, 4, 5)
    async with store.follow("s", after=after) as follower:
        events = await follower.events(MOMENT)
    assert events is not None
    assert [event.seq for event in events if isinstance(event, MessageEvent)] == [1, 2, 3, 4, 5][after:]


async def test_a_follower_behind_what_was_cut_away_goes_on_with_what_follows(store: Store) -> None:
    await append(store, 1, 2, 3)
    await store.truncate_messages("s", after=1)
    async with store.follow("s", after=3) as follower:
        assert await follower.events(MOMENT) == []
        await append(store, 4)
        assert await next_messages(follower, 4) == [4]


async def erase_and_make_anew(store: Store, *contents: object) -> None:
    await store.delete_session("s", hard=True)
    await store.create_session("s", messages=[user(content) for content in contents])


@pytest.mark.parametrize("contents", [(), ("a",), ("a", "b")])
async def test_a_follower_from_beyond_the_end_is_told_and_begins_anew(
    store: Store, contents: tuple[str, ...]
) -> None:
    await append(store, 1, 2, 3)
    await erase_and_make_anew(store, *contents)
    async with store.follow("s", after=3) as follower:
        reset, *messages = await next_events(follower)
        assert reset == ChangedEvent(1, ["reset"])
        assert [each.seq for each in messages if isinstance(each, MessageEvent)] == [
            *range(1, len(contents) + 1)
        ]
        await append(store, "c")
        assert await next_messages(follower, len(contents) + 1) == [len(contents) + 1]


async def test_a_long_session_made_anew_is_told_of_once_and_read_page_by_page(store: Store) -> None:
    await append(store, *range(2 * PAGE))
    await erase_and_make_anew(store, *range(PAGE + 10))
    async with store.follow("s", after=2 * PAGE) as follower:
        first, second = await next_events(follower), await next_events(follower)
        assert await follower.events(MOMENT) == []
    assert first[0] == ChangedEvent(1, ["reset"])
    assert [each.seq for each in first[1:] + second if isinstance(each, MessageEvent)] == [
        *range(1, PAGE + 11)
    ]


async def test_a_follower_of_an_erased_session_ends(store: Store) -> None:
    await append(store, 1, 2)
    async with store.follow("s") as follower:
        assert await next_messages(follower, 2) == [1, 2]
        await erase_and_make_anew(store, 1)
        assert (await next_events(follower))[-1] == ChangedEvent(3, ["deleted"])
        await end_of(follower)


async def test_a_follower_gets_each_message_as_a_reader_does(store: Store) -> None:
    await append(store, "a \u0000 🌇", "b")
    page = await store.list_messages("s")
    async with store.follow("s") as follower:
        events = await next_events(follower)
    assert [bytes(event.encoded) for event in events if isinstance(event, MessageEvent)] == [
        bytes(raw) for raw in page.encoded
    ]


async def test_a_long_session_is_replayed_page_by_page(store: Store) -> None:
    await append(store, *range(2 * PAGE + 50))
    async with store.follow("s") as follower:
        first = await next_events(follower)
        assert len(first) == PAGE
        assert await next_messages(follower, 2 * PAGE + 50) == list(range(PAGE + 1, 2 * PAGE + 51))


async def test_what_is_appended_comes_live(store: Store) -> None:
    async with store.follow("s") as follower:
        assert await follower.events(MOMENT) == []
        for seq in range(1, 4):
            await append(store, seq)
            assert await next_messages(follower, seq) == [seq]
        assert await follower.events(MOMENT) == []


async def test_there_is_no_gap_while_writers_append(store: Store) -> None:
    await append(store, *range(PAGE))
    async with store.follow("s", after=50) as early, asyncio.TaskGroup() as writers:
        for _ in range(4):
            writers.create_task(append_often(store, 50))
        first = await next_messages(early, PAGE + 50)
        async with store.follow("s", after=first[-1]) as late:
            rest = await next_messages(late, PAGE + 200)
    assert first + rest == list(range(51, PAGE + 201))


async def append_often(store: Store, times: int) -> None:
    for n in range(times):
        await append(store, n)


async def test_a_buffered_write_comes_when_it_is_stored(store: Store) -> None:
    async with store.follow("s") as follower:
        await store.append_messages("s", [user(1)], durability="buffered")
        await store.get_session("s")
        assert await next_messages(follower, 1) == [1]


async def test_a_slow_follower_holds_up_nobody_and_misses_nothing(store: Store) -> None:
    async with store.follow("s") as slow, store.follow("s") as quick:
        await append_often(store, PAGE + 20)
        assert await next_messages(quick, PAGE + 20) == list(range(1, PAGE + 21))
        assert await next_messages(slow, PAGE + 20) == list(range(1, PAGE + 21))


CHANGES: dict[str, Callable[[Store], Awaitable[Any]]] = {
    "agent": lambda store: store.switch_agent("s", "coder"),
    "approvals": lambda store: store.create_approval("s", "call", "look", {}),
    "context": lambda store: store.update_context("s", {"a": 1}),
    "messages": lambda store: store.truncate_messages("s", after=1),
    "session": lambda store: store.update_session("s", title="A title"),
}


@pytest.mark.parametrize("what", CHANGES)
async def test_a_change_is_named(store: Store, what: str) -> None:
    await append(store, 1, 2)
    async with store.follow("s") as follower:
        await next_messages(follower, 2)
        await CHANGES[what](store)
        assert await next_events(follower) == [ChangedEvent(3, [what])]


async def test_changes_that_nobody_has_seen_yet_are_told_as_one(store: Store) -> None:
    async with store.follow("s", after=0) as follower:
        await follower.events(MOMENT)
        await CHANGES["agent"](store)
        await append(store, 1)
        await CHANGES["context"](store)
        message, changed = await next_events(follower)
        assert isinstance(message, MessageEvent)
        assert changed == ChangedEvent(4, ["agent", "context"])


async def test_what_changes_nothing_is_not_told(store: Store) -> None:
    async with store.follow("s") as follower:
        await store.switch_agent("s", "orchestrator")
        await append(store)
        assert await follower.events(MOMENT) == []


async def test_what_happens_in_another_session_is_not_told(store: Store) -> None:
    async with store.follow("s") as follower:
        await store.create_session("other", messages=[user(1)])
        await store.switch_agent("other", "coder")
        assert await follower.events(MOMENT) == []


@pytest.mark.parametrize("hard", [False, True])
async def test_a_deletion_is_told_and_ends_the_stream(store: Store, hard: bool) -> None:
    async with store.follow("s") as follower:
        await append(store, 1)
        assert await next_messages(follower, 1) == [1]
        await store.delete_session("s", hard=hard)
        assert await next_events(follower) == [ChangedEvent(3, ["deleted"])]
        await end_of(follower)


async def test_a_session_made_anew_under_the_same_name_is_another_one(store: Store) -> None:
    async with store.follow("s") as follower:
        await append(store, 1)
        assert await next_messages(follower, 1) == [1]
        await store.delete_session("s", hard=True)
        await store.create_session("s", messages=[user("new")] * 5)
        assert await next_events(follower) == [ChangedEvent(3, ["deleted"])]
        await end_of(follower)


async def test_a_session_that_is_missing_or_deleted_is_followed_by_nobody(store: Store) -> None:
    await store.delete_session("s")
    for session_id in ("s", "missing"):
        with pytest.raises(SessionNotFound):
            async with store.follow(session_id):
                pass


async def test_w11_end_streams_ends_those_who_wait_and_those_who_come(store: Store) -> None:
    async with store.follow("s") as waiting:
        await waiting.events(MOMENT)
        asked = asyncio.create_task(waiting.events(LONG))
        await asyncio.sleep(0)
        store.end_streams()
        assert await asked is None
        async with store.follow("s") as late:
            await end_of(late)


async def test_follow_is_iterated_until_the_session_is_deleted(store: Store) -> None:
    await append(store, 1, 2)
    seen: list[int | list[str]] = []
    async with asyncio.timeout(LONG / 2):
        async for event in store.follow("s", after=1):
            seen.append(event.seq if isinstance(event, MessageEvent) else event.what)
            if seen == [2]:
                await append(store, 3)
                await store.update_session("s", title="late")
            elif event == ChangedEvent(4, ["session"]):
                await store.delete_session("s")
    assert seen == [2, 3, ["session"], ["deleted"]]
    assert not store._core.subscriptions._subscribers


async def test_an_iteration_that_is_left_unsubscribes_once_closed(store: Store) -> None:
    await append(store, 1, 2)
    events = aiter(store.follow("s"))
    async for event in events:
        assert isinstance(event, MessageEvent)
        assert event.seq == 1
        assert store._core.subscriptions._subscribers
        break
    await events.aclose()
    assert not store._core.subscriptions._subscribers


async def test_two_iterations_of_one_following_are_independent(store: Store) -> None:
    await append(store, 1)
    following = store.follow("s")
    first, second = aiter(following), aiter(following)
    assert [type(await anext(events)) for events in (first, second)] == [MessageEvent] * 2
    await first.aclose()
    assert [len(group) for group in store._core.subscriptions._subscribers.values()] == [1]
    await append(store, 2)
    async with asyncio.timeout(LONG / 2):
        event = await anext(second)
    assert isinstance(event, MessageEvent)
    assert event.seq == 2
    await second.aclose()
    assert not store._core.subscriptions._subscribers


async def test_a_following_is_entered_again_only_after_its_end(store: Store) -> None:
    following = store.follow("s")
    async with following:
        with pytest.raises(RuntimeError, match="call `follow` again"):
            async with following:
                pass
        assert [len(group) for group in store._core.subscriptions._subscribers.values()] == [1]
    async with following:
        pass
    assert not store._core.subscriptions._subscribers


async def test_who_leaves_is_forgotten(store: Store) -> None:
    async with store.follow("s"), store.follow("s"):
        assert [len(followers) for followers in store._core.subscriptions._subscribers.values()] == [2]
    assert not store._core.subscriptions._subscribers


async def test_a_follower_who_is_interrupted_while_it_reads_misses_nothing(database_url: str) -> None:
    async with open_store(database_url) as store:
        await store.create_session("s", messages=[user(n) for n in range(3)])
    async with delayed_store(database_url) as (store, database), store.follow("s") as follower:
        delay = database.delay("after", "list_page_after")
        asked = asyncio.create_task(follower.events(LONG))
        await delay.reached.wait()
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert await next_messages(follower, 3) == [1, 2, 3]


# Two instances on one Postgres


@pytest.fixture
async def instances(postgres_url: str) -> AsyncIterator[tuple[Store, Store]]:
    async with two_instances(postgres_url) as instances:
        yield instances


async def test_r2_a_follower_hears_what_another_instance_stores(instances: tuple[Store, Store]) -> None:
    here, there = instances
    async with here.follow("s") as follower:
        await append(there, 1)
        assert await next_messages(follower, 1) == [1]
        await there.switch_agent("s", "coder")
        assert await next_events(follower) == [ChangedEvent(3, ["agent"])]
        await there.delete_session("s")
        assert await next_events(follower) == [ChangedEvent(4, ["deleted"])]
        await end_of(follower)


async def test_r2_there_is_no_gap_while_two_instances_append(instances: tuple[Store, Store]) -> None:
    here, there = instances
    every = list(range(1, 121))
    async with here.follow("s") as one, there.follow("s") as other, asyncio.TaskGroup() as tasks:
        for store in instances:
            for _ in range(2):
                tasks.create_task(append_often(store, 30))
        followed = [tasks.create_task(next_messages(each, 120)) for each in (one, other)]
        assert [await each for each in followed] == [every, every]


async def test_r2_what_is_stored_while_nobody_listens_is_caught_up(
    postgres_url: str, instances: tuple[Store, Store]
) -> None:
    here, there = instances
    async with here.follow("s") as follower:
        await append(there, 1)
        assert await next_messages(follower, 1) == [1]
        assert await stop_listening(postgres_url) == 2
        await append(there, 2)
        await there.switch_agent("s", "coder")
        changed = await next_change(follower)
        assert "agent" in changed.what
        assert changed.version == 4
        await append(there, 3)
        assert (await next_messages(follower, 3))[-1] == 3


async def test_r2_a_gap_in_which_only_messages_came_is_told_by_these_alone(
    postgres_url: str, instances: tuple[Store, Store]
) -> None:
    here, there = instances
    async with here.follow("s") as follower:
        assert await follower.events(MOMENT) == []
        assert await stop_listening(postgres_url) == 2
        await append(there, 1)
        (message,) = await next_events(follower)
        assert isinstance(message, MessageEvent)


async def test_r2_a_session_made_anew_elsewhere_is_told_of_here(instances: tuple[Store, Store]) -> None:
    here, there = instances
    await append(here, 1, 2, 3)
    async with here.follow("s") as following:
        assert await next_messages(following, 3) == [1, 2, 3]
        await erase_and_make_anew(there, 1)
        assert (await next_events(following))[-1].what == ["deleted"]
        await end_of(following)
    async with here.follow("s", after=3) as follower:
        # What became of the session may come once more: the notification of its making is on its way.
        reset, *others = await next_events(follower)
        assert isinstance(reset, ChangedEvent)
        assert reset.what == ["reset"]
        assert [event.seq for event in others if isinstance(event, MessageEvent)] == [1]
        await append(there, 2)
        assert await next_messages(follower, 2) == [2]


async def stop_listening(url: str) -> int:
    """End the connections that listen; how many there were."""
    admin = await asyncpg.connect(url)
    try:
        ended = await admin.fetch(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid()
                  AND query ~ '^(LISTEN|SELECT 1)'"""
        )
        return len(ended)
    finally:
        await admin.close()


async def test_r2_a_batch_too_large_for_a_notification_is_heard_of_all_the_same(
    instances: tuple[Store, Store],
) -> None:
    here, there = instances
    others = [f"session-{n}" for n in range(400)]
    await asyncio.gather(*map(there.create_session, others))
    async with here.follow("s") as follower:
        assert await follower.events(MOMENT) == []
        await asyncio.gather(*(there.switch_agent(name, "coder") for name in ("s", *others)))
        changed = await next_change(follower)
    assert changed.version == 2
    assert "agent" in changed.what


def test_r2_a_notification_is_never_longer_than_postgres_takes() -> None:
    key, head = (
        SessionKey("", "s"),
        Head(2**62, SessionKey("", "s"), 2**62, 0, 0, 0, NOON, None, 0, 0, 0, 0, None),
    )
    change = CommittedChange(key, head, head, [], frozenset(ALL_CHANGES), [])
    assert [len(encode_notification("i" * 32, [change] * n)) <= MAX_NOTIFICATION for n in range(200)] == [
        True
    ] * 200
    assert encode_notification("i" * 32, [change] * 200) == '["' + "i" * 32 + '",null]'
