"""Turns whose process has died, and events that are kept no longer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import msgspec
import pytest
from msgspec import structs

from runtime.config import Settings
from runtime.errors import TurnLost, TurnRunning
from runtime.store.read.orphaned_turns import LEASE
from runtime.store.records import SessionKey
from runtime.store.store import Store, open_store
from runtime.store.write.outcomes import TurnWritten
from runtime.store.write.turn_commands import Ending, InterruptTurn
from tests.support.delayed_database import delayed_store
from tests.support.running_turns import (
    Clock,
    Running,
    ask,
    end_in_calls,
    follow_all,
    hear_all,
    names,
    next_events,
    note,
    open_timed,
    said,
    told,
    user,
)
from tests.support.two_instances import two_instances

pytestmark = pytest.mark.slow

DAY = 86_400
SETTINGS = Settings(turn_events_kept=DAY, search=False)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(database_url: str, clock: Clock) -> AsyncIterator[Store]:
    async with open_timed(database_url, clock, SETTINGS) as store:
        # Where time jumps, what is written in the background meanwhile would seem to wait for long.
        await asyncio.wait([store._core.indexer._task])
        yield store


@contextmanager
def virtual_time() -> Iterator[Callable[[float], None]]:
    """Lets the time of the event loop, by which a lease is measured, jump on."""
    loop = asyncio.get_running_loop()
    real, passed = loop.time, 0.0

    def pass_seconds(seconds: float) -> None:
        nonlocal passed
        passed += seconds

    loop.time = lambda: real() + passed  # type: ignore[method-assign]
    try:
        yield pass_seconds
    finally:
        loop.time = real  # type: ignore[method-assign]


# Processes that died


async def leave_turn(url: str, *texts: str, session_id: str = "s", before: str = "") -> str:
    """A turn whose instance is gone; its id."""
    async with open_store(url) as store:
        running = await ask(store, session_id=session_id)
        await running.advance(before, events=(note("x"),) if before else ())
        await running.advance(*texts)
        instance = store.turns.instance
    async with open_store(url) as store, asyncio.timeout(10):
        while await store._core.database.fetch("find_instance", instance):
            pass
    return running.id


@pytest.fixture
async def lost(database_url: str) -> AsyncIterator[tuple[Store, str]]:
    """A store, and the id of a turn that another instance ran before it died."""
    turn_id = await leave_turn(database_url, "It is \u0000", ' "blue', "because")
    async with open_store(database_url) as store:
        yield store, turn_id


async def follow_to_the_end(store: Store, turn_id: str) -> None:
    await follow_all(store, turn_id)


WAYS: dict[str, Callable[[Store, str], Awaitable[Any]]] = {
    "interrupt_lost_turn": lambda store, _: store.turns.interrupt_lost_turn("s"),
    "interrupt_lost_turns": lambda store, _: store.turns.interrupt_lost_turns(),
    "start_turn": lambda store, _: ask(store),
    "list_turns": lambda store, _: store.list_turns("s"),
    "follow_turn": follow_to_the_end,
    "stop_turn": lambda store, turn_id: store.stop_turn("s", turn_id),
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_turn_whose_process_died_is_interrupted_by_whoever_comes_next(
    lost: tuple[Store, str], way: str
) -> None:
    store, turn_id = lost
    await WAYS[way](store, turn_id)
    turn = (await store.list_turns("s")).turns[-1]
    assert (turn.turn_id, turn.status) == (turn_id, "interrupted")
    assert turn.ended_at is not None
    assert turn.error
    message = (await store.list_messages("s")).messages[1]
    assert (message["role"], message["content"]) == ("assistant", 'It is \u0000 "bluebecause')
    assert message["metadata"] == {"turn_id": turn_id, "agent": "orchestrator", "interrupted": True}
    events = await follow_all(store, turn_id)
    assert names(events) == ["turn", "assistant_message", "error"]
    whole, error = (msgspec.json.decode(event.data) for event in events[-2:])
    assert (whole["content"], whole["is_final"]) == (message["content"], True)
    assert (error["code"], error["error"]) == ("turn_interrupted", turn.error)


async def test_a_turn_starts_while_another_interrupts_the_lost_one(
    database_url: str,
) -> None:
    await leave_turn(database_url)
    async with delayed_store(database_url) as (store, database):
        looking = database.delay("before", "list_turns")
        beginning = asyncio.create_task(ask(store))
        await looking.reached.wait()
        assert await store.turns.interrupt_lost_turn("s")
        looking.release.set()
        await beginning
        statuses = [turn.status for turn in (await store.list_turns("s")).turns]
    assert statuses == ["running", "interrupted"]


async def test_a_turn_that_had_said_nothing_leaves_no_message(database_url: str) -> None:
    turn_id = await leave_turn(database_url)
    async with open_store(database_url) as store:
        assert await store.turns.interrupt_lost_turn("s")
        assert await store.turns.interrupt_lost_turn("s"), "it has ended"
        assert names(await follow_all(store, turn_id)) == ["turn", "error"]
        assert (await store.get_session("s")).message_count == 1


async def test_what_a_message_holds_already_is_not_kept_twice(database_url: str) -> None:
    turn_id = await leave_turn(database_url, "after", before="before")
    async with open_store(database_url) as store:
        await store.turns.interrupt_lost_turn("s")
        last = (await store.list_messages("s", last=1)).messages[0]
        assert last["content"] == "after"
        assert said(told(await follow_all(store, turn_id))) == "beforeafter"


async def test_the_lost_turns_of_all_sessions_are_found(database_url: str) -> None:
    for n in range(3):
        await leave_turn(database_url, "x", session_id=f"s{n}")
    async with open_store(database_url) as store:
        running = await ask(store, session_id="s3")
        await store.delete_session("s1")
        assert await store.turns.interrupt_lost_turns() == 2
        assert await store.turns.interrupt_lost_turns() == 0
        await running.end()
        await store.restore_session("s1")
        assert (await store.list_turns("s1")).turns[0].status == "interrupted"


async def test_many_who_find_a_lost_turn_interrupt_it_once(lost: tuple[Store, str]) -> None:
    store, turn_id = lost
    begun = await asyncio.gather(
        store.turns.interrupt_lost_turns(),
        *(store.turns.interrupt_lost_turn("s") for _ in range(5)),
        *(store.turns.start_turn("s", messages=[user("Why?")]) for _ in range(5)),
        return_exceptions=True,
    )
    assert [type(each) for each in begun[6:]].count(TurnRunning) == 4
    assert names(await follow_all(store, turn_id)) == ["turn", "assistant_message", "error"]
    assert (await store.get_session("s")).message_count == 3


async def test_what_a_living_instance_runs_is_left_alone(postgres_url: str) -> None:
    async with two_instances(postgres_url) as (here, there):
        running = await ask(here)
        assert await there.turns.interrupt_lost_turns() == 0
        assert not await there.turns.interrupt_lost_turn("s")
        with pytest.raises(TurnRunning):
            await ask(there)
        assert (await there.list_turns("s")).turns[0].status == "running"
        await running.end()


async def test_a_follower_elsewhere_hears_that_a_turn_was_interrupted(postgres_url: str) -> None:
    async with AsyncExitStack() as first, open_store(postgres_url) as here, open_store(postgres_url) as there:
        running = await ask(await first.enter_async_context(open_store(postgres_url)))
        async with there.follow_turn("s", running.id) as follower:
            await next_events(follower)
            await running.advance("half")
            await first.aclose()
            async with asyncio.timeout(10):
                while not await here.turns.interrupt_lost_turns():
                    pass
            heard = await hear_all(follower)
    assert names(heard) == ["assistant_message", "error"]
    assert said(told(heard)) == "half"


# Leases


async def test_a_turn_that_stands_still_is_lost_though_its_instance_lives(store: Store) -> None:
    with virtual_time() as pass_seconds:
        running = await ask(store)
        for _ in range(3):
            assert await store.turns.interrupt_lost_turns() == 0
            pass_seconds(LEASE - 1)
            await running.advance("a")
        assert await store.turns.interrupt_lost_turns() == 0, "it is first seen at this beat"
        pass_seconds(LEASE)
        assert await store.turns.interrupt_lost_turns() == 1
    with pytest.raises(TurnLost):
        await running.advance("b")
    assert said(told(await follow_all(store, running.id))) == "aaa"


async def test_a_sign_of_life_alone_keeps_the_lease_and_changes_nothing(store: Store) -> None:
    with virtual_time() as pass_seconds:
        running = await ask(store)
        for beat in range(1, 4):
            assert await store.turns.interrupt_lost_turns() == 0
            before = running.written
            assert await running.advance() == structs.replace(before, beat=beat, beginning=())
            pass_seconds(LEASE)


async def test_a_clock_that_jumps_costs_no_turn(store: Store, clock: Clock) -> None:
    running = await ask(store)
    for jump in (-DAY, 2 * DAY):
        assert await store.turns.interrupt_lost_turns() == 0
        clock.jump(jump)
        await running.advance("a")
        assert await store.turns.interrupt_lost_turns() == 0
    await running.end()


async def test_who_goes_on_is_not_interrupted_by_who_saw_it_before(store: Store) -> None:
    running = await ask(store)
    seen = InterruptTurn(SessionKey("", "s"), running.id, running.written.beat)
    await running.advance("a")
    with pytest.raises(TurnLost):
        await store._core.submitter.write(seen, TurnWritten, {})
    await running.end()


# Events that are kept no longer


async def ended_turn(store: Store) -> Running:
    running = await ask(store)
    await running.advance("text", events=(note("x"), note("y")))
    await running.end()
    return running


async def count_events(store: Store, n: int) -> int:
    head = await store._core.reader.get_head(SessionKey("", "s"))
    events, _ = await store.turns.turn_reader.list_events(head.id, n, 0)
    return len(events)


@pytest.mark.parametrize(
    ("after", "heard"),
    [
        (None, ["gap", "done"]),
        ("1", ["gap", "done"]),
        ("2-2", ["gap", "done"]),
        ("3", ["gap", "done"]),
        ("4", ["done"]),
        ("5", []),
    ],
)
async def test_events_that_are_kept_no_longer_leave_a_gap(
    store: Store, clock: Clock, after: str | None, heard: list[str]
) -> None:
    running = await ended_turn(store)
    clock.pass_seconds(DAY + 1)
    await store.turns.forget_old()
    events = await follow_all(store, running.id, after)
    assert names(events) == heard
    if "gap" in heard:
        assert msgspec.json.decode(events[0].data)["missing_to"] == 4
        assert await follow_all(store, running.id, events[0].id) == events[1:]
    assert (await store.list_turns("s")).turns[0].status == "completed"


async def test_the_cleanup_forgets_events_too(store: Store, clock: Clock) -> None:
    await ended_turn(store)
    clock.pass_seconds(DAY + 1)
    await store.cleanup(max_age_hours=100)
    assert await count_events(store, 1) == 1


async def test_events_that_are_still_to_be_kept_are_not_forgotten(store: Store, clock: Clock) -> None:
    await ended_turn(store)
    clock.pass_seconds(DAY / 2)
    await ended_turn(store)
    running = await ask(store)
    await running.advance("text")
    clock.pass_seconds(DAY / 2 + 1)
    await store.turns.forget_old()
    assert [await count_events(store, n) for n in (1, 2, 3)] == [1, 5, 2]
    clock.pass_seconds(DAY)
    await store.turns.forget_old()
    assert [await count_events(store, n) for n in (1, 2, 3)] == [1, 1, 2]


async def test_more_turns_than_one_batch_forgets_are_forgotten_too(store: Store, clock: Clock) -> None:
    for _ in range(120):
        await store.turns.start_turn("s", agent="coder")
    assert await count_events(store, 120) == 2
    clock.pass_seconds(DAY + 1)
    await store.turns.forget_old()
    assert {await count_events(store, n) for n in range(1, 121)} == {1}


async def test_a_follower_hears_of_events_that_are_forgotten_under_it(store: Store, clock: Clock) -> None:
    running = await ask(store)
    async with store.follow_turn("s", running.id) as follower:
        assert names(await next_events(follower)) == ["turn"]
        follower._fall_behind()
        await running.advance("text", ending=Ending("completed"))
        clock.pass_seconds(DAY + 1)
        await store.turns.forget_old()
        follower._fall_behind()
        assert names(await hear_all(follower)) == ["gap", "done"]


async def test_a_session_that_is_deleted_for_good_takes_its_turns_along(store: Store) -> None:
    await end_in_calls(store, "a")
    await ended_turn(store)
    head = await store._core.reader.get_head(SessionKey("", "s"))
    await store.delete_session("s", hard=True)
    assert not await store._core.database.fetch("list_turns", head.id, 10)
    assert await store.turns.turn_reader.list_events(head.id, 1, 0) == ([], False)
    running = await ask(store)
    assert [turn.turn_id for turn in (await store.list_turns("s")).turns] == [running.id]
