"""Following a turn: each event once and in order, from the start or any id, fast or slow, near or far."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.errors import InvalidInput, SessionNotFound, TurnNotFound
from runtime.models import TurnEvent
from runtime.store.follow.turn_follower import BUFFER
from runtime.store.store import Store, open_store
from runtime.store.write.turn_commands import Ending
from tests.support.delayed_database import delayed_store
from tests.support.running_turns import (
    LONG,
    Heard,
    Running,
    ask,
    follow_all,
    hear_all,
    hear_to,
    names,
    next_events,
    note,
    said,
    told,
)
from tests.support.two_instances import two_instances

pytestmark = pytest.mark.slow

EXAMPLES = settings().max_examples
MOMENT = 0.02


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    async with open_store(database_url) as store:
        yield store


# However it is cut, and wherever somebody goes on


class Step(NamedTuple):
    """What a turn comes to at a time, and whether those who follow listen then."""

    texts: list[str]
    notes: int
    listens: bool


TEXTS = st.one_of(
    st.text(max_size=5),
    st.sampled_from(["\u0000", '"', "\\", "\n", "🌇", "", "x" * 700, "é\\u0301" * 400]),
)
STEPS = st.lists(
    st.builds(Step, st.lists(TEXTS, max_size=4), st.integers(0, 2), st.booleans()), min_size=1, max_size=12
)
session_ids = (f"session {n}" for n in itertools.count())


@pytest.mark.slow
@given(STEPS, st.data())
@settings(
    max_examples=EXAMPLES * 4 // 10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_who_follows_from_any_id_hears_the_rest_once_and_in_order(
    store: Store, steps: list[Step], data: st.DataObject
) -> None:
    session_id = next(session_ids)
    running = await ask(store, session_id=session_id)
    async with store.follow_turn(session_id, running.id) as follower:
        live = [event for step in steps for event in await take(running, step, follower)]
        await running.end()
        live += await hear_all(follower)
    spoken = [letter for step in steps for letter in "".join(step.texts)]
    assert list(said(told(live))) == spoken
    every = await follow(store, session_id, running.id)
    assert told(every) == told(live)
    after = data.draw(st.sampled_from([event.id for event in (*live, *every)] + [id for id, _ in told(live)]))
    rest = await follow(store, session_id, running.id, after)
    assert told(rest) == rest_of(told(live), after)


async def take(running: Running, step: Step, follower: Any) -> list[TurnEvent]:
    """Take the step; what a follower hears then, if it listens."""
    await running.advance(*step.texts, events=tuple(map(note, "ab"[: step.notes])))
    return (await follower.events(0) or []) if step.listens else []


async def follow(store: Store, session_id: str, turn_id: str, after: str | None = None) -> list[TurnEvent]:
    async with store.follow_turn(session_id, turn_id, after=after) as follower:
        return await hear_all(follower)


def rest_of(heard: Heard, after: str) -> Heard:
    return heard[[id for id, _ in heard].index(after) + 1 :]


# Fast and slow


async def test_what_is_said_is_heard_as_it_is_said(store: Store) -> None:
    running = await ask(store)
    async with store.follow_turn("s", running.id) as follower:
        assert names(await next_events(follower)) == ["turn"]
        assert await follower.events(MOMENT) == []
        for word in ("So", " it", " is"):
            await running.advance(word)
            assert said(told(await next_events(follower))) == word
        await running.end()
        assert names(await next_events(follower)) == ["done"]
        assert await follower.events(LONG) is None


async def test_a_follower_that_is_too_slow_is_given_the_rest_from_the_database(store: Store) -> None:
    running = await ask(store)
    async with store.follow_turn("s", running.id) as slow, store.follow_turn("s", running.id) as quick:
        heard = [told(await next_events(follower)) for follower in (slow, quick)]
        for n in range(30):
            await running.advance(f"{n:02}" * 5000, events=(note(str(n)),))
            heard[1] += told(await next_events(quick))
            assert slow._held <= BUFFER + 15_000, "it costs no more memory than this"
        await running.end()
        heard[0] += told(await hear_all(slow))
        heard[1] += told(await hear_all(quick))
    assert heard[0] == heard[1]
    assert said(heard[0]) == "".join(f"{n:02}" * 5000 for n in range(30))


async def test_a_follower_who_is_interrupted_while_it_reads_misses_nothing(database_url: str) -> None:
    async with delayed_store(database_url) as (store, database):
        running = await ask(store)
        async with store.follow_turn("s", running.id) as follower:
            delay = database.delay("after", "list_turn_events")
            asked = asyncio.create_task(follower.events(LONG))
            await delay.reached.wait()
            await running.advance("while it reads")
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            await running.end()
            heard = await hear_all(follower)
    assert names(heard) == ["turn", "done"]
    assert said(told(heard)) == "while it reads"


async def test_what_is_committed_while_a_follower_reads_is_heard_once(database_url: str) -> None:
    async with delayed_store(database_url) as (store, database):
        running = await ask(store)
        for when in ("before", "after"):
            await running.advance("a")
            async with store.follow_turn("s", running.id) as follower:
                delay = database.delay(when, "list_turn_events")  # type: ignore[arg-type]
                asked = asyncio.create_task(follower.events(LONG))
                await delay.reached.wait()
                await running.advance("b")
                delay.release.set()
                heard = told(await asked or [])
                count = 1 + (await running.position())[1]
                assert said(heard + await hear_to(follower, count - len(heard))) == "ab" * (count // 2)


# The ends of a stream


async def test_a_follower_with_all_events_of_an_ended_turn_ends_at_once(store: Store) -> None:
    running = await ask(store)
    await running.advance("a", ending=Ending("completed"))
    assert await follow_all(store, running.id, after="3") == []
    assert names(await follow_all(store, running.id, after="2-1")) == ["done"]


async def test_a_turn_is_followed_while_the_next_one_runs(store: Store) -> None:
    first = await ask(store)
    await first.advance("one", ending=Ending("completed"))
    second = await ask(store)
    async with store.follow_turn("s", second.id) as follower:
        assert names(await next_events(follower)) == ["turn"]
        assert said(told(await follow_all(store, first.id))) == "one"
        await second.advance("two")
        assert said(told(await next_events(follower))) == "two"


async def test_a_follower_ends_when_its_session_is_deleted_for_good(store: Store) -> None:
    running = await ask(store)
    async with store.follow_turn("s", running.id) as follower:
        await next_events(follower)
        await store.delete_session("s", hard=True)
        assert await hear_all(follower) == []
    async with store.follow_turn("s", (await ask(store)).id) as follower:
        asked = asyncio.create_task(follower.events(LONG))
        await asyncio.sleep(0)
        await store.delete_session("s", hard=True)
        await asyncio.wait_for(asked, LONG / 2)
        assert await hear_all(follower) == []


async def test_a_follower_ends_when_its_session_is_deleted(store: Store) -> None:
    running = await ask(store)
    async with store.follow_turn("s", running.id) as follower:
        await running.advance("a")
        await store.delete_session("s")
        assert said(told(await hear_all(follower))) == "a"


async def test_w11_end_streams_ends_those_who_wait_and_those_who_come(store: Store) -> None:
    running = await ask(store)
    async with store.follow_turn("s", running.id) as waiting:
        await next_events(waiting)
        asked = asyncio.create_task(waiting.events(LONG))
        await asyncio.sleep(0)
        store.end_streams()
        assert await asked is None
        async with store.follow_turn("s", running.id) as late:
            assert names(await hear_all(late)) == ["turn"], "what is there already is told"


async def test_who_leaves_is_forgotten(store: Store) -> None:
    running = await ask(store)
    async with store.follow_turn("s", running.id), store.follow_turn("s", running.id):
        assert [len(listeners) for listeners in store._core.subscriptions._subscribers.values()] == [2]
    assert not store._core.subscriptions._subscribers


@pytest.mark.parametrize(
    "after", ["", "x", "-1", "1-", "3", "2-5", "2-4-1", "1.5", " 1", "1\n", "9999999999", "0x1", "²"]
)
async def test_an_id_that_no_event_has_is_refused(store: Store, after: str) -> None:
    running = await ask(store)
    await running.advance("four")
    with pytest.raises(InvalidInput):
        await follow_all(store, running.id, after=after)


async def test_a_turn_that_is_not_there_is_followed_by_nobody(store: Store) -> None:
    for expected in (SessionNotFound, TurnNotFound):
        with pytest.raises(expected):
            await follow_all(store, "t")
        await store.create_session("s", if_missing=True)


# Other instances


async def test_r2_a_turn_is_followed_on_another_instance(postgres_url: str) -> None:
    async with two_instances(postgres_url) as (here, there):
        running = await ask(here)
        async with there.follow_turn("s", running.id) as follower:
            heard = told(await next_events(follower))
            for n in range(30):
                await running.advance(f"word {n} ", events=(note(str(n)),) if n % 7 == 0 else ())
                heard += await hear_to(follower, 1)
            await running.end()
            heard += told(await hear_all(follower))
        assert heard == told(await follow_all(here, running.id))
        assert said(heard) == "".join(f"word {n} " for n in range(30))


async def test_r2_who_goes_on_at_another_instance_hears_each_event_once(postgres_url: str) -> None:
    async with two_instances(postgres_url) as (here, there):
        running = await ask(here)
        heard: list[TurnEvent] = []
        for n, store in enumerate((here, there) * 4):
            await running.advance(f"{n}", "x" * 900)
            after = heard[-1].id if heard else None
            async with store.follow_turn("s", running.id, after=after) as follower:
                heard += await next_events(follower)
        assert said(told(heard)) == "".join(f"{n}" + "x" * 900 for n in range(8))
