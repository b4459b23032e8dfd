"""What the rest of the world is told of a turn: the version of its session, and that it shall stop."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from runtime.errors import SessionNotFound, TurnNotFound
from runtime.models import ChangedEvent
from runtime.store.store import Store
from runtime.store.write.turn_commands import Ending
from tests.support.database_rows import until
from tests.support.running_turns import ask, note, user, waits
from tests.support.two_instances import two_instances

MOMENT = 0.02


async def version(store: Store) -> int:
    return (await store.get_session("s")).version


async def test_text_alone_is_no_change_of_the_session(store: Store) -> None:
    running = await ask(store)
    before = await version(store)
    async with store.follow("s", after=1) as follower:
        assert await follower.events(MOMENT) == []
        await running.advance("a", "b")
        await running.advance("c", events=(note("x"),))
        await running.advance(input_tokens=5)
        assert await version(store) == running.written.version == before
        assert await follower.events(MOMENT) == []
        await store.update_session("s", title="A title", if_match=before)
        assert await follower.events(MOMENT) == [ChangedEvent(before + 1, ["session"])]


async def test_each_step_that_changes_the_session_raises_its_version_by_one(store: Store) -> None:
    running = await ask(store)
    steps: list[dict[str, Any]] = [
        {"messages": [user("x"), user("y")]},
        {"approvals": (waits("a"),)},
        {"agent": "coder"},
        {"messages": [user("x")], "agent": "ask", "ending": Ending("completed")},
    ]
    versions = [running.written.version, *[(await running.advance("x", **step)).version for step in steps]]
    assert all(after == before + 1 for before, after in pairwise(versions))


async def test_those_who_follow_the_session_hear_of_turns(store: Store) -> None:
    await store.create_session("s")
    async with store.follow("s") as follower:
        assert await follower.events(MOMENT) == []
        running = await ask(store)
        assert (await follower.events(MOMENT) or [])[1:] == [ChangedEvent(2, ["turns"])]
        await store.stop_turn("s", running.id)
        assert await follower.events(MOMENT) == [ChangedEvent(3, ["turns"])]
        await running.end("stopped")
        assert await follower.events(MOMENT) == [ChangedEvent(4, ["turns"])]


# Stopping


async def test_who_runs_a_turn_hears_that_it_shall_stop(store: Store) -> None:
    running = await ask(store)
    asked: list[bool] = []
    with store.turns.watch_turns(running.written.session_db_id, lambda: asked.append(True)):
        assert not (await running.advance("a")).stop_requested
        assert await store.stop_turn("s", running.id) == 2
        assert asked
        assert (await running.advance("b")).stop_requested
        assert await store.stop_turn("s", running.id) == 2, "asked for already"
    await running.end("stopped")
    assert await store.stop_turn("s", running.id) == 3, "a turn that has ended stays as it is"
    assert (await store.list_turns("s")).turns[0].status == "stopped"


async def test_a_turn_that_is_not_there_cannot_be_stopped(store: Store) -> None:
    with pytest.raises(SessionNotFound):
        await store.stop_turn("s", "t")
    await ask(store)
    with pytest.raises(TurnNotFound):
        await store.stop_turn("s", "t")


async def test_who_watches_is_told_when_the_session_goes(store: Store) -> None:
    running = await ask(store)
    asked: list[bool] = []
    with store.turns.watch_turns(running.written.session_db_id, lambda: asked.append(True)):
        await store.delete_session("s")
        assert asked
    assert not store._core.subscriptions._subscribers


async def test_a_turn_is_stopped_from_another_instance(postgres_url: str) -> None:
    async with two_instances(postgres_url) as (here, there):
        running = await ask(here)
        asked: list[bool] = []
        with here.turns.watch_turns(running.written.session_db_id, lambda: asked.append(True)):
            await there.stop_turn("s", running.id)
            await until(lambda: bool(asked))
        assert (await running.advance("a")).stop_requested
