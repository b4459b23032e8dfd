"""R3: what is done often costs the same in a session of 100 messages and in one of 100,000.

Nothing is timed: the databases themselves say how much work a statement was.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from typing import Any

import asyncpg
import pytest

from runtime.config import Settings
from runtime.db.queries import load_queries
from runtime.db.sqlite_dialect import bind
from runtime.models import MAX_SEQ, utc_now
from runtime.store.messages import new_messages
from runtime.store.paging import PAGE_BYTES
from runtime.store.read.message_pages import ROLE_WINDOW
from runtime.store.records import SessionKey
from runtime.store.store import Store, open_store
from runtime.store.write.turn_commands import AdvanceTurn, Ending
from tests.migrations.catalogue import query
from tests.support.database_locks import sqlite_path
from tests.support.long_sessions import make_session

pytestmark = pytest.mark.slow

LENGTHS = {"short": 100, "long": 100_000}
PAGE = 50
# How much more work the long session may be: an index may be a page deeper, a page hold a row less.
FACTOR, SLACK = 1.5, 8

Call = tuple[str, Sequence[object]]


async def append(store: Store, name: str) -> None:
    await store.append_messages(name, [{"role": "user", "content": "one more"}])


async def read_last_page(store: Store, name: str) -> None:
    assert len((await store.list_messages(name, last=PAGE)).seqs) == PAGE


async def read_first_page(store: Store, name: str) -> None:
    assert len((await store.list_messages(name, limit=PAGE)).seqs) == PAGE


async def read_page_before(store: Store, name: str) -> None:
    assert len((await store.list_messages(name, before=LENGTHS[name] - PAGE, limit=10)).seqs) == 10


async def read_page_of_a_role(store: Store, name: str) -> None:
    assert len((await store.list_messages(name, last=5, role="tool")).seqs) == 5


async def read_stats(store: Store, name: str) -> None:
    assert (await store.get_stats(name)).message_count >= LENGTHS[name]


async def run_a_turn(store: Store, name: str) -> None:
    started = await store.turns.start_turn(name, messages=[{"role": "user", "content": "one more"}])
    await store.turns.advance_turn(
        AdvanceTurn(
            SessionKey("", name),
            started.turn.turn_id,
            store.turns.instance,
            started.beat,
            texts=("a word",),
            messages=new_messages([{"role": "assistant", "content": "a word"}]),
            ending=Ending("completed"),
        )
    )


ACTIONS = (
    append,
    read_last_page,
    read_first_page,
    read_page_before,
    read_page_of_a_role,
    read_stats,
    run_a_turn,
)


def calls(session_db_id: int, name: str) -> list[Call]:
    """The statements behind these actions as the store calls them."""
    end = LENGTHS[name]
    now = utc_now()
    keys = json.dumps([["", name]])
    return [
        ("find_session", ["", name]),
        ("list_heads", [keys]),
        ("lock_heads", [keys]),
        ("insert_message", [session_db_id, end + 1, "user", '"x"', now, *[None] * 6, 3]),
        ("update_head", [session_db_id, end, end + 1, end + 1, end + 1, 0, now, 0, 0, 1, None]),
        ("list_page_before", [session_db_id, 0, end, None, PAGE + 1, PAGE_BYTES]),
        ("list_page_after", [session_db_id, 0, end, None, PAGE + 1, PAGE_BYTES]),
        ("list_page_after", [session_db_id, end - PAGE, end, None, PAGE + 1, PAGE_BYTES]),
        ("list_page_before", [session_db_id, max(0, end - ROLE_WINDOW), end, "tool", 6, PAGE_BYTES]),
        ("find_last_message_time", [session_db_id, end]),
        ("list_details", [f"[{session_db_id}]", 65536]),
        ("list_open_ends", [f"[[{session_db_id}, {2**63 - 1}, 0, 0]]"]),
        (
            "insert_turn",
            [session_db_id, 1, "t", "running", "ask", now, None, None, 0, 0, "i", 0, False, 1, 0, True],
        ),
        ("list_last_turns", [f"[{session_db_id}]"]),
        ("insert_turn_event", [session_db_id, 1, 1, "text", "a word"]),
        ("append_turn_text", [session_db_id, 1, 1, "another"]),
        ("update_turn", [session_db_id, 1, "completed", "ask", now, None, 1, 1, 1, False, 1, 7]),
    ]


# What a batch costs beside its sessions: nothing in these depends on one.
OF_THE_BATCH = {"raise_batch", "announce", "delete_writer"}


# What every start looks for, at the same time as the action.
AT_THE_START = {"find_erasable", "find_search_progress", "find_unlabelled_session", "list_unfinished_forks"}


@pytest.fixture
async def url(database_url: str) -> str:
    for name, length in LENGTHS.items():
        await make_session(database_url, name, length)
    # As a start with the search off leaves it: the next one has nothing to write.
    query(database_url, f"UPDATE search_backfill SET after_id = 0, through_id = {MAX_SEQ}")
    return database_url


async def test_r3_the_same_statements_run_however_long_a_session_is(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    measured = {statement for statement, _ in calls(1, "short")} | OF_THE_BATCH
    for action in ACTIONS:
        ran = {name: await statements_of(action, url, name, caplog) for name in LENGTHS}
        assert ran["long"] == ran["short"]
        assert ran["long"]
        assert set(ran["long"]) <= measured, action


async def statements_of(
    action: Callable[[Store, str], Awaitable[None]], url: str, name: str, caplog: pytest.LogCaptureFixture
) -> list[str]:
    """The statements that run when nothing is in memory yet, by name."""
    # Without the search, whose statements run in the background.
    async with open_store(url, Settings(slow_query_ms=0, search=False)) as store:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "agent_runtime.db"):
            await action(store, name)
        messages = [record.getMessage() for record in caplog.records]
    ran = [text.split()[2].rstrip(":") for text in messages if text.startswith("slow statement ")]
    return [statement for statement in ran if statement not in AT_THE_START]


async def test_r3_each_statement_is_the_same_work_however_long_a_session_is(url: str) -> None:
    measure = measure_on_sqlite if url.startswith("sqlite") else measure_on_postgres
    short, long = await measure(url, "short"), await measure(url, "long")
    assert all(work > 0 for work in short.values())
    more = {call: (short[call], long[call]) for call in short if long[call] > FACTOR * short[call] + SLACK}
    assert more == {}


async def measure_on_sqlite(url: str, name: str) -> dict[str, int]:
    """The instructions of SQLite's virtual machine that each statement took."""
    return await asyncio.to_thread(_count_instructions, sqlite_path(url), name)


def _count_instructions(path: str, name: str) -> dict[str, int]:
    queries = load_queries("sqlite")
    counted: dict[str, int] = {}
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        [(id,)] = connection.execute("SELECT id FROM sessions WHERE session_id = ?", (name,))
        connection.execute("BEGIN")
        for place, (statement, parameters) in enumerate(calls(id, name)):
            steps: list[None] = []
            connection.set_progress_handler(lambda steps=steps: steps.append(None), 1)
            connection.execute(queries[statement].sql, bind(parameters)).fetchall()
            connection.set_progress_handler(None, 0)
            counted[f"{place} {statement}"] = len(steps)
        connection.rollback()
    return counted


async def measure_on_postgres(url: str, name: str) -> dict[str, int]:
    """The pages that each statement looked at."""
    queries = load_queries("postgres")
    connection = await asyncpg.connect(url)
    id = await connection.fetchval("SELECT id FROM sessions WHERE session_id = $1", name)
    transaction = connection.transaction()
    await transaction.start()
    looked_at = {
        f"{place} {statement}": await _count_pages(connection, queries[statement].sql, parameters)
        for place, (statement, parameters) in enumerate(calls(id, name))
    }
    await transaction.rollback()
    await connection.close()
    return looked_at


async def _count_pages(connection: Any, sql: str, parameters: Sequence[object]) -> int:
    as_arrays = any(query.sql == sql and query.as_arrays for query in load_queries("postgres").values())
    given = [[value] for value in parameters] if as_arrays else parameters
    explained = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", *given)
    plan = json.loads(explained)[0]["Plan"]
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])
