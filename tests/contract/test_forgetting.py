"""What is old is forgotten, and nothing sooner: not by a clock that is wrong for a while."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from runtime.config import Settings
from runtime.store.records import SessionKey
from runtime.store.steady_clock import HOLD
from runtime.store.store import Store
from tests.support.running_turns import Clock, ask, note, open_timed, user

pytestmark = pytest.mark.slow

DAY, HOUR = 86_400.0, 3600.0
SWEEP = 5.0
SETTINGS = Settings(turn_events_kept=DAY)


@pytest.fixture
async def store(database_url: str, clock: Clock) -> AsyncIterator[Store]:
    async with open_timed(database_url, clock, SETTINGS) as store:
        await sweep(store, clock, HOLD)
        yield store


async def sweep(store: Store, clock: Clock, seconds: float, every: float = SWEEP) -> None:
    """Let time pass, and forget what is old all the while."""
    for _ in range(int(seconds / every)):
        clock.pass_seconds(every)
        await store.turns.forget_old()


async def write(store: Store, key: str = "k") -> bool:
    """A write under a key; whether it was a repeat of one before."""
    return (await store.append_messages("s", [user("x")], idempotency_key=key)).replayed


async def count_events(store: Store) -> int:
    """How many events of the first turn are kept."""
    head = await store._core.reader.get_head(SessionKey("", "s"))
    events, _ = await store.turns.turn_reader.list_events(head.id, 1, 0)
    return len(events)


async def make(store: Store) -> int:
    """A session with a turn that has ended and a write under a key; how many events the turn has."""
    running = await ask(store)
    await running.advance("text", events=(note("x"),))
    await running.end()
    await write(store)
    return await count_events(store)


@pytest.mark.parametrize("ahead", [DAY, 2 * DAY, 5000 * DAY])
async def test_w12_a_clock_that_is_ahead_for_a_while_forgets_nothing(
    store: Store, clock: Clock, ahead: float
) -> None:
    events = await make(store)
    for seconds in (10.0, 600.0, HOLD - SWEEP):
        clock.jump(ahead)
        await sweep(store, clock, seconds)
        clock.jump(-ahead)
        await sweep(store, clock, SWEEP)
        assert await write(store)
        assert await count_events(store) == events


async def test_w12_a_clock_that_jumps_to_and_fro_forgets_nothing(store: Store, clock: Clock) -> None:
    await make(store)
    for _ in range(20):
        clock.jump(2 * DAY)
        await sweep(store, clock, HOLD / 2, every=HOLD / 8)
        clock.jump(-2 * DAY)
        await sweep(store, clock, SWEEP)
    assert await write(store)


async def test_w12_a_process_that_starts_with_a_wrong_clock_forgets_nothing(
    database_url: str, store: Store, clock: Clock
) -> None:
    events = await make(store)
    await store.close(1)
    clock.jump(2 * DAY)
    async with open_timed(database_url, clock, SETTINGS) as next_store:
        await sweep(next_store, clock, 60.0)
        await next_store.cleanup(max_age_hours=1000)
        clock.jump(-2 * DAY)
        await sweep(next_store, clock, 2 * HOLD)
        assert await write(next_store)
        assert await count_events(next_store) == events


async def test_w12_a_day_later_a_key_is_forgotten_and_not_before(store: Store, clock: Clock) -> None:
    await make(store)
    await sweep(store, clock, DAY - HOUR, every=HOUR / 2)
    assert await write(store)
    await sweep(store, clock, 2 * HOUR, every=HOUR / 2)
    assert not await write(store)
    assert await count_events(store) == 1


@pytest.mark.parametrize("wrong", [-400 * DAY, -DAY, DAY])
async def test_w12_what_was_written_by_a_wrong_clock_is_not_kept_for_ever(
    store: Store, clock: Clock, wrong: float
) -> None:
    clock.jump(wrong)
    await make(store)
    await sweep(store, clock, HOUR, every=HOUR / 2)
    clock.jump(-wrong)
    await write(store, "right")
    await sweep(store, clock, DAY + max(wrong, 0) + 2 * HOUR, every=HOUR / 2)
    assert [await write(store, key) for key in ("k", "right")] == [False, False]


async def test_a_clock_that_stays_ahead_is_believed(store: Store, clock: Clock) -> None:
    await make(store)
    clock.jump(2 * DAY)
    await sweep(store, clock, HOLD)
    assert await write(store)
    await sweep(store, clock, 2 * SWEEP)
    assert not await write(store)


async def test_nobody_looks_for_hours_and_a_jump_meanwhile_is_seen_all_the_same(
    store: Store, clock: Clock
) -> None:
    await make(store)
    clock.pass_seconds(5 * HOUR)
    clock.jump(2 * DAY)
    await sweep(store, clock, 3 * SWEEP)
    clock.jump(-2 * DAY)
    assert await write(store)


async def test_the_cleanup_deletes_no_session_by_a_clock_that_is_ahead(store: Store, clock: Clock) -> None:
    await make(store)
    await store.create_session("deleted")
    await store.delete_session("deleted")
    clock.jump(60 * DAY)
    cleaned = await store.cleanup()
    assert (cleaned.soft_deleted, cleaned.hard_deleted) == (0, 0)
    clock.jump(-60 * DAY)
    assert await write(store)
    await store.restore_session("deleted")
    clock.pass_seconds(DAY + 1)
    assert (await store.cleanup()).soft_deleted == 2


async def test_w12_one_instance_with_a_clock_ahead_forgets_no_key_of_another(
    postgres_url: str, clock: Clock
) -> None:
    wrong = Clock()
    async with open_timed(postgres_url, clock) as here, open_timed(postgres_url, wrong) as there:
        for each in (wrong, clock):
            await sweep(there if each is wrong else here, each, HOLD, every=60.0)
        await make(here)
        wrong.jump(2 * DAY)
        await sweep(there, wrong, 600.0)
        assert await write(here)
