"""Sessions are deleted by their age, as the settings ask, by one instance at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from runtime.config import Settings
from runtime.db.connect import open_database
from runtime.metrics import Metrics
from runtime.models import Cleaned
from runtime.store.core import Core
from runtime.store.steady_clock import HOLD, SteadyClock
from runtime.store.store import Store
from tests.support.database_locks import execute
from tests.support.delayed_database import Delayed
from tests.support.held_eraser import count
from tests.support.marked_owner_rows import fill, tables_with
from tests.support.running_turns import Clock, user

pytestmark = pytest.mark.slow

DAY, HOUR = 86_400.0, 3600.0
BOTH = Settings(retain_idle_days=10, retain_deleted_days=3)
LOGGER = "agent_runtime.retention"
NOTHING = Cleaned(soft_deleted=0, hard_deleted=0)
LOCK = 7091318039310988654


class Kept:
    """A store for which time passes as the clock says, the database below it, and its metrics."""

    def __init__(self, store: Store, database: Delayed, metrics: Metrics) -> None:
        self.store, self.database, self.metrics = store, database, metrics

    async def look(self) -> Cleaned:
        return await self.store._core.retention.look()

    async def deleted(self) -> dict[str, bool]:
        """Whether each session that there is, is deleted."""
        page = await self.store.list_sessions(include_deleted=True)
        return {session.session_id: session.deleted_at is not None for session in page.sessions}


@asynccontextmanager
async def kept(
    url: str, clock: Clock, settings: Settings = BOTH, *, settled: bool = True
) -> AsyncIterator[Kept]:
    database, metrics = Delayed(await open_database(url)), Metrics()
    core = Core(database, settings, metrics, clock=clock)
    core.cleanup._steady = SteadyClock(clock, clock.monotonic)
    store = Store(core)
    if settled:
        clock.pass_seconds(HOLD)
    try:
        yield Kept(store, database, metrics)
    finally:
        await store.close(10)


@pytest.fixture
async def here(database_url: str, clock: Clock) -> AsyncIterator[Kept]:
    async with kept(database_url, clock) as here:
        yield here


async def test_what_is_idle_for_so_long_is_deleted_and_not_before(here: Kept, clock: Clock) -> None:
    for owner in ("", "alice"):
        await here.store.create_session("s", owner=owner, messages=[user("x")])
    clock.pass_seconds(10 * DAY)
    assert await here.look() == NOTHING
    await here.store.create_session("new")
    clock.pass_seconds(1)
    assert await here.look() == Cleaned(soft_deleted=2, hard_deleted=0)
    assert await here.deleted() == {"s": True, "new": False}
    await here.store.restore_session("s")
    assert await here.look() == NOTHING
    assert (await here.store.get_session("s")).message_count == 1


async def test_what_is_used_stays(here: Kept, clock: Clock) -> None:
    await here.store.create_session("s")
    for _ in range(4):
        clock.pass_seconds(9 * DAY)
        await here.store.append_messages("s", [user("x")])
        assert await here.look() == NOTHING


async def test_what_was_deleted_so_long_ago_is_erased(here: Kept, clock: Clock, database_url: str) -> None:
    await fill(here.store, "")
    for name, is_deleted in (await here.deleted()).items():
        if not is_deleted:
            await here.store.delete_session(name)
    clock.pass_seconds(3 * DAY)
    assert await here.look() == NOTHING
    clock.pass_seconds(1)
    assert await here.look() == Cleaned(soft_deleted=0, hard_deleted=3)
    assert count(database_url, "messages") == 0
    # Keys and tokens are not sessions.
    assert set(tables_with(database_url)) <= {"idempotency_keys", "tokens"}


async def test_both_one_after_the_other(here: Kept, clock: Clock) -> None:
    await here.store.create_session("s")
    seen = []
    for _ in range(15):
        clock.pass_seconds(DAY)
        cleaned = await here.look()
        seen.append((cleaned.soft_deleted, cleaned.hard_deleted))
    # A session is erased three days after it was deleted: not in the same look.
    assert seen == [*[(0, 0)] * 10, (1, 0), *[(0, 0)] * 3, (0, 1)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(retain_idle_days=10), {"idle": True, "deleted": True}),
        (Settings(retain_deleted_days=3), {"idle": False}),
        (Settings(), {"idle": False, "deleted": True}),
    ],
)
async def test_an_empty_setting_keeps_for_ever(
    database_url: str, clock: Clock, settings: Settings, expected: dict[str, bool]
) -> None:
    async with kept(database_url, clock, settings) as here:
        for name in ("idle", "deleted"):
            await here.store.create_session(name)
        await here.store.delete_session("deleted")
        clock.pass_seconds(1000 * DAY)
        await here.look()
        assert await here.deleted() == expected


async def test_more_sessions_than_a_transaction_takes(here: Kept, clock: Clock) -> None:
    for number in range(250):
        await here.store.create_session(f"s{number}", owner=f"owner {number % 7}")
    clock.pass_seconds(11 * DAY)
    assert await here.look() == Cleaned(soft_deleted=250, hard_deleted=0)
    clock.pass_seconds(4 * DAY)
    assert await here.look() == Cleaned(soft_deleted=0, hard_deleted=250)
    assert (await here.store.list_owners()).owners == []


# Clocks that are wrong


async def test_nothing_is_deleted_before_the_clock_was_watched_for_an_hour(
    database_url: str, clock: Clock
) -> None:
    async with kept(database_url, clock) as here:
        await here.store.create_session("idle")
        await here.store.create_session("deleted")
        await here.store.delete_session("deleted")
    # It starts with a clock that is ahead, and is set right within the hour.
    clock.jump(100 * DAY)
    async with kept(database_url, clock, settled=False) as here:
        for _ in range(5):
            assert await here.look() == NOTHING
            clock.pass_seconds(HOLD / 6)
        clock.jump(-100 * DAY)
        clock.pass_seconds(2 * HOLD)
        assert await here.look() == NOTHING
        assert await here.deleted() == {"idle": False, "deleted": True}


async def test_a_clock_that_jumps_ahead_deletes_nothing(here: Kept, clock: Clock) -> None:
    await here.store.create_session("s")
    clock.jump(100 * DAY)
    assert await here.look() == NOTHING
    clock.pass_seconds(HOLD / 2)
    assert await here.look() == NOTHING
    clock.jump(-100 * DAY)
    clock.pass_seconds(2 * HOLD)
    assert await here.look() == NOTHING


# The task


class Sleeps:
    """Sleeps of the task, each of which a test ends."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self._begun, self._go = asyncio.Semaphore(0), asyncio.Semaphore(0)

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        self._begun.release()
        await self._go.acquire()

    async def begun(self) -> None:
        """Wait for the next sleep."""
        async with asyncio.timeout(60):
            await self._begun.acquire()

    async def look_again(self) -> None:
        """End a sleep, and wait for the next one."""
        self._go.release()
        await self.begun()


async def test_a_task_looks_at_once_and_again_and_again(here: Kept, clock: Clock) -> None:
    sleeps = Sleeps()
    await here.store.create_session("first")
    clock.pass_seconds(11 * DAY)
    async with here.store._core.retention.kept(sleeps):
        await sleeps.begun()
        assert await here.deleted() == {"first": True}
        await here.store.create_session("second")
        clock.pass_seconds(11 * DAY)
        await sleeps.look_again()
        assert await here.deleted() == {"second": True}
    assert all(300 <= seconds <= 600 for seconds in sleeps.asked)
    assert len(sleeps.asked) == 2
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "retention"]


async def test_without_a_setting_there_is_no_task(database_url: str, clock: Clock) -> None:
    async with kept(database_url, clock, Settings()) as here, here.store.keep_retention():
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "retention"]


async def test_with_a_setting_there_is_one(here: Kept) -> None:
    async with here.store.keep_retention():
        assert [task for task in asyncio.all_tasks() if task.get_name() == "retention"]


async def test_what_fails_is_logged_and_tried_again(
    here: Kept, clock: Clock, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    await here.store.create_session("s")
    clock.pass_seconds(11 * DAY)
    await execute(
        database_url,
        """CREATE TRIGGER keep BEFORE UPDATE OF deleted_at ON sessions
           BEGIN SELECT RAISE(ABORT, 'kept'); END;""",
        """CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN RAISE EXCEPTION 'kept' USING ERRCODE = 'check_violation'; END $$;
           CREATE TRIGGER keep BEFORE UPDATE OF deleted_at ON sessions
           FOR EACH ROW EXECUTE FUNCTION keep();""",
    )
    sleeps = Sleeps()
    with caplog.at_level(logging.WARNING, LOGGER):
        async with here.store._core.retention.kept(sleeps):
            await sleeps.begun()
            assert await here.deleted() == {"s": False}
            assert [record.levelname for record in caplog.records if record.name == LOGGER] == ["WARNING"]
            await execute(database_url, "DROP TRIGGER keep", "DROP TRIGGER keep ON sessions")
            await sleeps.look_again()
            assert await here.deleted() == {"s": True}


async def test_what_was_done_is_logged_and_counted(
    here: Kept, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, LOGGER):
        await here.look()
        assert not [record for record in caplog.records if record.name == LOGGER]
        for name in ("a", "b", "c"):
            await here.store.create_session(name)
        await here.store.delete_session("c")
        clock.pass_seconds(11 * DAY)
        await here.look()
    [record] = (record for record in caplog.records if record.name == LOGGER)
    assert (record.soft_deleted, record.hard_deleted) == (2, 1)  # type: ignore[attr-defined]
    text = here.metrics.render().decode()
    assert 'agent_runtime_retention_sessions_total{action="deleted"} 2.0' in text
    assert 'agent_runtime_retention_sessions_total{action="erased"} 1.0' in text


# Several instances


async def test_one_instance_at_a_time_and_the_others_do_not_wait(postgres_url: str, clock: Clock) -> None:
    async with kept(postgres_url, clock) as here, kept(postgres_url, clock) as there:
        await here.store.create_session("s")
        clock.pass_seconds(11 * DAY)
        delay = here.database.delay("before", "list_idle_sessions")
        looking = asyncio.create_task(here.look())
        async with asyncio.timeout(60):
            await delay.reached.wait()
            assert await there.look() == NOTHING
            # Nor does a write.
            await there.store.create_session("other")
        delay.release.set()
        assert await looking == Cleaned(soft_deleted=1, hard_deleted=0)
        clock.pass_seconds(4 * DAY)
        assert await there.look() == Cleaned(soft_deleted=0, hard_deleted=1)


async def test_the_lock_is_given_back_whatever_happens(
    postgres_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def held() -> bool:
        connection = await asyncpg.connect(postgres_url)
        try:
            return not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK)
        finally:
            await connection.close()

    async with kept(postgres_url, clock) as here:
        await here.store.create_session("s")
        clock.pass_seconds(11 * DAY)
        await here.look()
        assert not await held()
        # Cancelled in the middle, as by a shutdown.
        delay = here.database.delay("before", "list_idle_sessions")
        looking = asyncio.create_task(here.look())
        async with asyncio.timeout(60):
            await delay.reached.wait()
            assert await held()
            looking.cancel()
            await asyncio.wait([looking])
            assert not await held()

        async def fail(*_: object) -> Cleaned:
            raise OSError("not an error of ours")

        monkeypatch.setattr(here.store._core.cleanup, "retain", fail)
        with pytest.raises(OSError, match="not an error of ours"):
            await here.look()
        assert not await held()


async def test_a_shutdown_does_not_wait_for_a_look(here: Kept, clock: Clock) -> None:
    await here.store.create_session("s")
    clock.pass_seconds(11 * DAY)
    delay = here.database.delay("before", "list_idle_sessions")
    async with asyncio.timeout(60):
        async with here.store.keep_retention():
            await delay.reached.wait()
    assert await here.deleted() == {"s": False}


# The dry run of the cleanup


@pytest.mark.parametrize(("hours", "days"), [(0, 0), (24, 30), (1, 2), (1000, 0), (1e6, 1e6)])
async def test_a_dry_run_counts_what_a_cleanup_does(
    here: Kept, clock: Clock, database_url: str, hours: float, days: float
) -> None:
    store = here.store
    for number in range(230):
        owner = f"owner {number % 5}"
        await store.create_session(f"s{number}", owner=owner)
        if number % 3 == 0:
            await store.delete_session(f"s{number}", owner=owner)
        clock.pass_seconds(HOUR / 2)
    before = {table: count(database_url, table) for table in ("sessions", "idempotency_keys")}
    counted = await store.cleanup(max_age_hours=hours, hard_delete_after_days=days, dry_run=True)
    assert {table: count(database_url, table) for table in before} == before
    assert await store.cleanup(max_age_hours=hours, hard_delete_after_days=days, dry_run=True) == counted
    assert await store.cleanup(max_age_hours=hours, hard_delete_after_days=days) == counted
