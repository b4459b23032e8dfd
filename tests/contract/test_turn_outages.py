"""Turns over outages: who was cut off from the database, what was missed meanwhile, whose turn it is."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from runtime.config import Settings
from runtime.db import listener
from runtime.errors import TurnRunning
from runtime.store.read.orphaned_turns import LEASE, RETURN
from runtime.store.records import SessionKey
from runtime.store.store import Store, open_store
from tests.contract.test_orphaned_turns import virtual_time
from tests.support.database_rows import until
from tests.support.running_turns import (
    Clock,
    Running,
    ask,
    follow_all,
    hear_all,
    hear_to,
    names,
    next_events,
    open_timed,
    said,
    told,
)
from tests.support.two_instances import two_instances

MOMENT = 0.02
DAY = 86_400


async def cut_off(url: str, store: Store) -> None:
    """End the connection over which an instance hears from the others."""
    admin = await asyncpg.connect(url)
    try:
        ended = await admin.fetch(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE application_name = $1 AND query ~ '^(LISTEN|SELECT 1;?$)'""",
            store.turns.instance,
        )
    finally:
        await admin.close()
    assert ended
    await until(lambda: store._core.database.was_lost(RETURN))


async def leave(store: Store, other: Store) -> None:
    """Close a store whose turn still runs, and wait until the other sees that it is gone."""
    await store.close(1)
    async with asyncio.timeout(10):
        while await other._core.database.fetch("find_instance", store.turns.instance):
            pass


@pytest.fixture
def stays_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is cut off does not come back within a test."""
    monkeypatch.setattr(listener, "FIRST_PAUSE", 1000.0)


# Absence and death


async def test_who_was_cut_off_itself_does_not_take_absence_for_death_at_once(postgres_url: str) -> None:
    with virtual_time() as pass_seconds:
        async with two_instances(postgres_url) as (here, there):
            running = await ask(here)
            await leave(here, there)
            await cut_off(postgres_url, there)
            assert not await there.turns.interrupt_lost_turn("s"), "it is not back yet"
            await until(lambda: not there._core.database.was_lost(0))
            assert not await there.turns.interrupt_lost_turn("s"), "the others may not be back yet"
            assert await there.turns.interrupt_lost_turns() == 0
            with pytest.raises(TurnRunning):
                await ask(there)
            pass_seconds(RETURN)
            assert await there.turns.interrupt_lost_turns() == 1
            assert names(await follow_all(there, running.id)) == ["turn", "error"]


@pytest.mark.usefixtures("stays_cut_off")
async def test_who_is_cut_off_for_long_takes_absence_for_death_a_lease_later(postgres_url: str) -> None:
    with virtual_time() as pass_seconds:
        async with two_instances(postgres_url) as (here, there):
            await ask(here)
            await leave(here, there)
            await cut_off(postgres_url, there)
            assert await there.turns.interrupt_lost_turns() == 0
            pass_seconds(LEASE)
            assert await there.turns.interrupt_lost_turns() == 1


async def test_who_was_never_cut_off_takes_absence_for_death_at_once(postgres_url: str) -> None:
    async with two_instances(postgres_url) as (here, there):
        await ask(here)
        await leave(here, there)
        assert await there.turns.interrupt_lost_turn("s")


async def abandon(running: Running) -> None:
    running.store.turns.abandon(SessionKey("", running.written.session_id), running.id)


async def test_a_turn_of_ours_that_nobody_runs_is_lost_at_once(database_url: str) -> None:
    async with open_store(database_url) as store:
        ours = await ask(store, session_id="in hand")
        for find in (store.turns.interrupt_lost_turns(), store.turns.interrupt_lost_turn("s1")):
            await abandon(await ask(store, session_id="s1"))
            assert await find == 1
        await abandon(await ask(store, session_id="s2"))
        await ask(store, session_id="s2")
        assert [turn.status for turn in (await store.list_turns("s1")).turns] == ["interrupted"] * 2
        assert not await store.turns.interrupt_lost_turn("in hand")
        with pytest.raises(TurnRunning):
            await ask(store, session_id="in hand")
        await ours.end()


# What was missed


@pytest.mark.usefixtures("stays_cut_off")
async def test_who_missed_text_hears_it_before_the_interruption(postgres_url: str) -> None:
    with virtual_time() as pass_seconds:
        async with two_instances(postgres_url) as (here, there):
            running = await ask(here)
            await running.advance("one ")
            async with there.follow_turn("s", running.id) as follower:
                heard = await hear_to(follower, 1 + len("one "))
                await cut_off(postgres_url, there)
                await running.advance("two ")
                assert (await running.position())[0] == 2, "it is the same row"
                assert await there.turns.interrupt_lost_turns() == 0
                pass_seconds(LEASE)
                assert await there.turns.interrupt_lost_turns() == 1
                heard += told(await hear_all(follower))
            assert said(heard) == "one two "
            assert heard == told(await follow_all(there, running.id))


@pytest.mark.usefixtures("stays_cut_off")
async def test_who_missed_that_the_session_was_deleted_finds_out(postgres_url: str) -> None:
    async with two_instances(postgres_url) as (here, there):
        running = await ask(here)
        async with there.follow_turn("s", running.id) as follower:
            await next_events(follower)
            await cut_off(postgres_url, there)
            await here.delete_session("s")
            assert await follower.events(MOMENT) == []
            assert names(await hear_all(follower)) == ["error"]


# Events that two instances forget at once

LEFT = """
    SELECT count(*) FILTER (WHERE t.events_kept) AS kept, count(e.n) AS events,
           count(*) FILTER (WHERE e.n < t.last_event) AS earlier
      FROM turns AS t LEFT JOIN turn_events AS e ON e.session_db_id = t.session_db_id AND e.turn_n = t.n
"""
WAITING = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted"


async def test_two_instances_that_forget_at_once_leave_nothing_behind(postgres_url: str) -> None:
    clock, settings = Clock(), Settings(turn_events_kept=DAY)
    async with (
        open_timed(postgres_url, clock, settings) as here,
        open_timed(postgres_url, clock, settings) as there,
    ):
        await asyncio.gather(*(here.turns.start_turn(f"s{n}", agent="coder") for n in range(300)))
        clock.pass_seconds(DAY + 1)
        # Neither has been silent for so long that the other forgets it as well, and waits for that.
        await asyncio.gather(*(store.create_session() for store in (here, there)))
        await forget_at_once(postgres_url, here, there)
        admin = await asyncpg.connect(postgres_url)
        try:
            assert tuple(await admin.fetchrow(LEFT)) == (0, 300, 0)
        finally:
            await admin.close()


async def forget_at_once(url: str, *stores: Store) -> None:
    """Let all of them choose what to delete before any has deleted it."""
    admin = await asyncpg.connect(url)
    try:
        await admin.execute("BEGIN; SELECT 1 FROM turn_events FOR UPDATE")
        forgetting = asyncio.gather(*(store.turns.forget_old() for store in stores))
        async with asyncio.timeout(10):
            while await admin.fetchval(WAITING) < len(stores):
                pass
    finally:
        await admin.close()
    await forgetting
