"""Cancelled at any await, nothing is left open: no transaction, and every connection is given back (W10)."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from runtime.config import Settings
from runtime.db.connect import open_database
from runtime.db.database import Database
from runtime.errors import DeadlinePassed, RequestError, SessionNotFound, ShuttingDown, Unconfirmed
from runtime.store.store import Store, open_store
from runtime.store.write.outcomes import Appended, Outcome
from runtime.uncancellable import run_to_completion
from tests.faults.cancelling import CancelledAt
from tests.support.database_rows import NOON, aiosqlite_threads, insert_session, until
from tests.support.postgres_server import PostgresServer
from tests.support.running_turns import calling, user

# A small pool, and no cache: everything that is read is read from the database.
SMALL = Settings(pool_max=2, cache_bytes=0)
QUICK = Settings(write_timeout=0.1, shutdown_timeout=0.5)
# More awaits than anything here has.
MOST = 200
# Connections that a server has of ours, and that are in a transaction.
IN_TRANSACTION = """
    SELECT count(*) FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid() AND state ~ 'transaction'
"""
CONNECTED = """
    SELECT count(*) FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""

Operation = Callable[[Store, str], Awaitable[object]]


async def follow(store: Store, session_id: str) -> None:
    async with store.follow(session_id) as follower:
        assert await follower.events(1)
        await follower.events(0.001)


async def follow_turn(store: Store, session_id: str) -> None:
    (turn,) = (await store.list_turns(session_id)).turns
    async with store.follow_turn(session_id, turn.turn_id) as follower:
        await follower.events(0.001)


async def read_what_is_accepted(store: Store, session_id: str) -> None:
    await store.append_messages(session_id, [user("buffered")], durability="buffered")
    await store.get_history(session_id)


async def find_caller(store: Store, name: str) -> None:
    approval = await store.find_approval(name, "call-1")
    assert approval is not None
    await store.turns.find_caller(approval)


OPERATIONS: dict[str, Operation] = {
    "create": lambda store, name: store.create_session(name + "-new", messages=[user("x")]),
    "update": lambda store, name: store.update_session(name, title="x"),
    "delete": lambda store, name: store.delete_session(name),
    "erase": lambda store, name: store.delete_session(name, hard=True),
    "restore": lambda store, name: store.restore_session(name),
    "append": lambda store, name: store.append_messages(name, [user("x")], idempotency_key=name),
    "append, buffered": read_what_is_accepted,
    "replace": lambda store, name: store.replace_messages(name, [user("1"), user("x")]),
    "truncate": lambda store, name: store.truncate_messages(name, after=1),
    "switch": lambda store, name: store.switch_agent(name, "coder"),
    "context": lambda store, name: store.update_context(name, {"a": 1}),
    "ask for approval": lambda store, name: store.create_approval(name, "call-2", "look", {}),
    "approve": lambda store, name: store.decide_approval(name, "call-1", "approve"),
    "forget an approval": lambda store, name: store.delete_approval(name, "call-1"),
    "clean up": lambda store, name: store.cleanup(max_age_hours=0),
    "start a turn": lambda store, name: store.turns.start_turn(name + "-turn", messages=[user("x")]),
    "look for lost turns": lambda store, _: store.turns.interrupt_lost_turns(),
    "forget what is old": lambda store, _: store.turns.forget_old(),
    "get": lambda store, name: store.get_session(name),
    "list": lambda store, _: store.list_sessions(count=True),
    "statistics": lambda store, name: store.get_stats(name),
    "messages": lambda store, name: store.list_messages(name, limit=2),
    "numbered page": lambda store, name: store.list_numbered_page(name, page=1, page_size=2),
    "history": lambda store, name: store.get_history(name),
    "get context": lambda store, name: store.get_context(name),
    "switches": lambda store, name: store.list_switches(name),
    "approvals": lambda store, name: store.list_approvals(name),
    "decisions": lambda store, name: store.turns.list_decisions(name, ["call-1"]),
    "edited arguments": lambda store, name: store.turns.list_edited_arguments(name, ["call-1"]),
    "caller": find_caller,
    "turns": lambda store, name: store.list_turns(name),
    "follow": follow,
    "follow a turn": follow_turn,
    "health": lambda store, _: store.check_health(),
}


@pytest.fixture(params=[False, True], ids=["once", "twice"])
def again(request: pytest.FixtureRequest) -> bool:
    """Whether what cleans up after the cancellation is cancelled as well."""
    twice: bool = request.param
    return twice


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_w10_cancelling_an_operation_at_any_await_leaves_nothing_open(
    database_url: str, operation: str, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A process that has just started would forget nothing.
    monkeypatch.setattr("runtime.store.steady_clock.HOLD", 0.0)
    async with open_store(database_url, SMALL) as store:
        for k in count(1):
            name = f"s{k}"
            await make_session(store, name)
            if not await is_cancelled(OPERATIONS[operation](store, name), k, again):
                break
            await check_whole(store, database_url)
            # Both connections of the pool read, and the writer writes.
            await asyncio.gather(*(store.list_sessions() for _ in range(4)))
            await store.create_session(f"after {k}")
        assert 1 < k < MOST


async def make_session(store: Store, name: str) -> None:
    """A session with something of everything. A turn runs in it."""
    await store.turns.start_turn(name, messages=[user("1"), calling("call-1", "call-2"), user("3")])
    await store.create_approval(name, "call-1", "look", {})


async def is_cancelled(operation: Awaitable[object], k: int, again: bool) -> bool:
    """Cancel it at its k-th await; False where it has fewer."""
    running = CancelledAt(_awaiting(operation), k, again=again)
    with suppress(asyncio.CancelledError, RequestError):
        await asyncio.create_task(running.run())
    return running.waits >= k


async def _awaiting(operation: Awaitable[object]) -> object:
    return await operation


async def check_whole(store: Store, url: str) -> None:
    await until(lambda: not store._core.database.pool_usage()["busy"])
    await wait_until(lambda: transactions(url) == 0)


async def wait_until(condition: Callable[[], bool]) -> None:
    """Soon: a server ends by itself what has stood idle in a transaction for five seconds."""
    async with asyncio.timeout(3):
        while not condition():  # noqa: ASYNC110 - a server has no event
            await asyncio.sleep(0.001)


def transactions(url: str) -> int:
    """How many transactions are open."""
    if url.startswith("postgres"):
        with psycopg.connect(url, autocommit=True) as admin:
            [(open_ones,)] = admin.execute(IN_TRANSACTION).fetchall()
            return int(open_ones)
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=0)) as other:
        try:
            # What reads holds up a checkpoint, what writes another writer.
            [(busy, _, _)] = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.OperationalError:
            return 1
        return int(busy)


async def test_a_transaction_that_is_cancelled_at_any_await_is_in_or_out(
    database_url: str, again: bool
) -> None:
    database = await open_database(database_url, pool_max=2)
    for k in count(1):
        cancelled = await is_cancelled(write(database, 2 * k), k, again)
        await wait_until(lambda: transactions(database_url) == 0)
        stored = [bool(await database.fetch("list_heads", f'[["", "s{n}"]]')) for n in (2 * k, 2 * k + 1)]
        assert stored in ([False, False], [True, True])
        if not cancelled:
            break
    assert 3 < k < MOST
    assert all(stored)
    await database.close()


async def write(database: Database, number: int) -> None:
    async with database.transaction() as transaction:
        await insert_session(transaction, number)
        await transaction.fetch("lock_batch", "somebody", NOON)
        await insert_session(transaction, number + 1)


async def test_a_read_that_is_cancelled_at_any_await_gives_its_connection_back(
    database_url: str, again: bool
) -> None:
    database = await open_database(database_url, pool_max=1)
    for k in count(1):
        cancelled = await is_cancelled(database.fetch("ping"), k, again)
        async with asyncio.timeout(10):
            assert (await database.fetch("ping"))[0]["ok"] == 1
        if not cancelled:
            break
    assert 1 < k < MOST
    await database.close()


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
async def test_cancelling_a_migration_at_any_await_leaves_nothing_open(
    dialect: str, tmp_path: Path, postgres_server: PostgresServer
) -> None:
    threads = aiosqlite_threads()
    for k in count(1):
        name = postgres_server.create() if dialect == "postgres" else ""
        url = postgres_server.url(name) if name else f"sqlite:///{tmp_path / str(k)}.db"
        cancelled = await is_cancelled(open_and_close(url), k, again=True)
        await until(lambda: aiosqlite_threads() == threads)
        # Also: nobody holds the lock of a migration, or that of the file.
        await open_and_close(url)
        if name:
            await until(lambda url=url: connections(url) == 0)
            postgres_server.drop(name)
        if not cancelled:
            break
    assert 3 < k < MOST


async def open_and_close(url: str) -> None:
    database = await open_database(url)
    await run_to_completion(database.close())


def connections(url: str) -> int:
    """How many other connections the database has."""
    with psycopg.connect(url, autocommit=True) as admin:
        [(others,)] = admin.execute(CONNECTED).fetchall()
        return int(others)


async def test_w10_w11_a_writer_that_is_cancelled_at_any_await_tears_no_batch(database_url: str) -> None:
    """As at a shutdown that comes to its deadline."""
    for k in count(1):
        running = await append_while_the_writer_is_cancelled(database_url, f"s{k}", k)
        await wait_until(lambda: transactions(database_url) == 0)
        if running.waits < k:
            break
    assert 10 < k < MOST


async def append_while_the_writer_is_cancelled(url: str, name: str, k: int) -> CancelledAt[None]:
    made: list[CancelledAt[None]] = []

    def make_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        if coroutine.__qualname__ == "Writer._run":
            made.append(CancelledAt(coroutine, k))
            coroutine = made[0].run()
        return asyncio.Task(coroutine, loop=loop, **options)

    loop = asyncio.get_running_loop()
    loop.set_task_factory(make_task)
    try:
        async with open_store(url, QUICK) as store:
            loop.set_task_factory(None)
            results = await asyncio.gather(*appends(store, name), return_exceptions=True)
    finally:
        loop.set_task_factory(None)
    await check_fates(url, name, results)
    return made[0]


def appends(store: Store, name: str) -> list[Awaitable[object]]:
    """A session is made, and two messages are appended to it by each of three callers."""
    return [
        store.create_session(name, idempotency_key=name),
        *(store.append_messages(name, [user(f"{n}"), user(f"{n}")]) for n in range(3)),
    ]


async def check_fates(url: str, name: str, results: list[object]) -> None:
    """What was acknowledged is there, what was refused is not, and the rest is whole."""
    async with open_store(url) as store:
        try:
            page = await store.list_messages(name)
        except SessionNotFound:
            assert not any(isinstance(result, Outcome) for result in results)
            return
    contents = [message["content"] for message in page.messages]
    for n, result in enumerate(results[1:]):
        stored = contents.count(str(n))
        assert stored in (0, 2)
        if isinstance(result, Appended):
            assert stored == 2
        elif not isinstance(result, Unconfirmed):
            assert isinstance(result, DeadlinePassed | ShuttingDown | SessionNotFound), result
            assert stored == 0
