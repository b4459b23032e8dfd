"""The migrations 0005 and 0006 on a filled database: its rows stay what they are, whatever happens."""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from runtime.db import migrate
from runtime.db.connect import open_database
from runtime.db.migrate import apply_migrations, rollback_migrations
from tests.migrations.catalogue import query, read_catalogue, sqlite_path
from tests.migrations.test_migrations import IDS, PATIENCE, start_opening
from tests.support.filled_database import filling

# These and later ones are taken back.
COPYING = "0006-small-keys-swap"
NEW = len(IDS) - IDS.index(COPYING) + 1
LAST_SESSION, HIGHEST_ID = 300, 10_000
LARGE = 8_000_000
UNMOVED = ("turns", "agent_contexts")
# What is compared: the columns that there were before, in the order of their keys.
COLUMNS = {
    "sessions": "id, owner, session_id, title, description, metadata, created_at, last_activity, is_active,"
    " deleted_at, version, last_seq, message_count, token_total, cut_version, changed_version,"
    " first_user_seq, first_user_text",
    "messages": "session_db_id, seq, role, content, timestamp, name, tool_call_id, tool_calls, token_count,"
    " metadata, extra",
    "agent_contexts": "session_db_id, current_agent, created_at, updated_at, switch_count, metadata",
    "agent_switches": "session_db_id, n, from_agent, to_agent, switched_at, reason, metadata",
    "pending_approvals": "session_db_id, call_id, tool_name, arguments, reason, status, created_at,"
    " expires_at, decided_at, modified_arguments, feedback",
    "turns": "session_db_id, n, turn_id, status, agent, started_at, ended_at, error, input_tokens,"
    " output_tokens, instance, beat, stop_requested, last_event, text_length, events_kept",
    "turn_events": "session_db_id, turn_n, n, kind, data",
}
ODD = (
    # A NUL as JSON has it, half a surrogate pair, and a message of 8 MB.
    r"""UPDATE messages SET content = '"a \u0000 and \ud83d"', name = '"ü"', extra = '{"\u0000": null}',
               tool_calls = '[]', metadata = '{}', tool_call_id = '"c"', token_count = 4611686018427387904
         WHERE session_db_id = 1""",
    "UPDATE messages SET content = {large} WHERE session_db_id = 2 AND seq = 3",
    "UPDATE sessions SET title = '\"t\"', description = '\"d\"', first_user_seq = 1,"
    " first_user_text = '\"words\"' WHERE id < 9",
)
LARGE_TEXT = {
    "sqlite": f"'\"' || hex(zeroblob({LARGE // 2})) || '\"'",
    "postgres": f"('\"' || repeat('0', {LARGE}) || '\"')::json",
}


LATER = (
    "bare_sessions",
    "imported_sessions",
    "search_entries",
    "search_queue",
    "session_labels",
    "unlabelled_sessions",
    "forked_sessions",
    "unfinished_forks",
)


async def fill_old(url: str) -> None:
    """Bring a migrated database back to the tables of before, filled; most of its sessions were erased."""
    dialect = "sqlite" if url.startswith("sqlite") else "postgres"
    assert await rollback_migrations(url, NEW) == IDS[: -NEW - 1 : -1]
    for statement in filling(dialect):
        # Later migrations make these tables.
        if not any(f"INTO {table} " in statement for table in LATER):
            query(url, statement)
    for table in reversed(COLUMNS):
        key = "id" if table == "sessions" else "session_db_id"
        query(url, f"DELETE FROM {table} WHERE {key} > {LAST_SESSION}")
    if dialect == "postgres":
        query(url, f"SELECT setval('sessions_id_seq', {HIGHEST_ID})")
    for statement in ODD:
        query(url, statement.replace("{large}", LARGE_TEXT[dialect]))


KEYS = {"sessions": "1", "agent_contexts": "1", "turn_events": "1, 2, 3"}


def rows(url: str) -> dict[str, list[tuple[object, ...]]]:
    """All rows of all tables, in the order of their keys."""
    return {
        table: query(url, f"SELECT {columns} FROM {table} ORDER BY {KEYS.get(table, '1, 2')}")
        for table, columns in COLUMNS.items()
    }


@pytest.fixture(scope="module")
def old_sqlite(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the old tables, filled, to copy."""
    path = tmp_path_factory.mktemp("old") / "old.db"
    shutil.copyfile(sqlite_template, path)
    # In a thread: a fixture must leave the event loop of this one alone.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, fill_old(f"sqlite:///{path}")).result()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


@pytest.fixture
def old_sqlite_url(old_sqlite: Path, tmp_path: Path) -> str:
    path = tmp_path / "copy.db"
    shutil.copyfile(old_sqlite, path)
    return f"sqlite:///{path}"


@pytest.fixture
async def old_postgres_url(postgres_url: str) -> str:
    await fill_old(postgres_url)
    return postgres_url


@pytest.fixture(params=["sqlite", "postgres"])
def old_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"old_{request.param}_url")
    return url


async def next_session_id(url: str) -> int:
    database = await open_database(url)
    [row] = await database.fetch("allocate_session_ids", 1)
    await database.close()
    return int(row["id"])


async def test_rows_stay_what_they_are_up_and_down_and_up_again(old_url: str, sqlite_url: str) -> None:
    before = rows(old_url)
    assert len(before["messages"]) == LAST_SESSION * 20
    assert await apply_migrations(old_url) == IDS[-NEW:]
    assert rows(old_url) == before
    assert read_catalogue(old_url) == read_catalogue(sqlite_url)
    assert await rollback_migrations(old_url, NEW) == IDS[: -NEW - 1 : -1]
    assert rows(old_url) == before
    await apply_migrations(old_url)
    assert rows(old_url) == before
    assert await next_session_id(old_url) > HIGHEST_ID, "an id that was given is given again"


async def test_each_row_has_the_bytes_of_its_texts(old_sqlite_url: str) -> None:
    await apply_migrations(old_sqlite_url)
    wrong = """
        SELECT count(*) FROM messages
         WHERE size IS NOT length(CAST(content || coalesce(name, '') || coalesce(tool_call_id, '')
                                       || coalesce(tool_calls, '') || coalesce(metadata, '')
                                       || coalesce(extra, '') AS BLOB))
    """
    assert query(old_sqlite_url, wrong) == [(0,)]
    assert query(old_sqlite_url, "SELECT max(size) FROM messages") == [(LARGE + 2,)]
    for table in ("sessions", "agent_switches", "pending_approvals"):
        assert query(old_sqlite_url, f"SELECT count(*) FROM {table} WHERE size IS NULL") == [(0,)]


async def test_what_waits_to_be_erased_does_not_come_back(old_url: str) -> None:
    """Down again with a session that is gone and a cut whose rows are still there."""
    before = rows(old_url)
    await apply_migrations(old_url)
    query(old_url, "UPDATE sessions SET owner = NULL, deleted_at = created_at WHERE id = 5")
    query(old_url, "UPDATE sessions SET cut_after = 4, cut_through = 18 WHERE id = 6")
    await rollback_migrations(old_url, NEW)
    for table, kept in rows(old_url).items():
        cut = range(5, 19) if table == "messages" else ()
        assert kept == [row for row in before[table] if row[0] != 5 and not (row[0] == 6 and row[1] in cut)]


@pytest.mark.parametrize("steps", [1, 20, 60, 120, 200, 300, 400, 500, 600, 700])
async def test_killed_while_rows_are_copied_the_next_start_ends_with_the_same(
    old_sqlite_url: str, sqlite_url: str, steps: int
) -> None:
    before = rows(old_sqlite_url)
    process = start_opening(old_sqlite_url, "portions", str(steps))
    process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL
    await (await open_database(old_sqlite_url)).close()
    assert rows(old_sqlite_url) == before
    assert read_catalogue(old_sqlite_url) == read_catalogue(sqlite_url)
    assert await next_session_id(old_sqlite_url) > HIGHEST_ID


@pytest.mark.parametrize("statement", range(6, 50, 4))
async def test_killed_before_any_statement_the_next_start_ends_with_the_same(
    old_sqlite_url: str, sqlite_url: str, statement: int
) -> None:
    before = rows(old_sqlite_url)
    process = start_opening(old_sqlite_url, str(statement))
    process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL
    await (await open_database(old_sqlite_url)).close()
    assert rows(old_sqlite_url) == before
    assert read_catalogue(old_sqlite_url) == read_catalogue(sqlite_url)
    assert await next_session_id(old_sqlite_url) > HIGHEST_ID


async def test_who_waits_for_a_long_migration_is_told_how_far_it_is(
    old_sqlite_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "PROGRESS_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, "agent_runtime.db"):
        await apply_migrations(old_sqlite_url)
    told = [text for text in caplog.messages if "rows are copied" in text]
    total = sum(len(each) for table, each in rows(old_sqlite_url).items() if table not in UNMOVED)
    assert len(told) > 5, "it goes in portions"
    assert told[-1].startswith(f"{COPYING}: {total} rows are copied in ")


async def test_the_file_grows_to_about_twice_its_size_and_not_more(old_sqlite_url: str) -> None:
    before = sqlite_path(old_sqlite_url).stat().st_size
    await apply_migrations(old_sqlite_url)
    assert sqlite_path(old_sqlite_url).stat().st_size < 2.5 * before
