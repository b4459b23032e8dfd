"""What is not as it looks in old databases: local times, names that are none, texts that nobody can store."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from runtime.store.store import open_store
from tests.transfer.importing import fitting, import_into, read_all
from tests.transfer.old_databases import DUMP, expected, restore, unpack
from tests.transfer.test_old_databases import as_json, by_creation

pytestmark = [pytest.mark.usefixtures("uncounted"), pytest.mark.slow]

# Three hours before UTC, summer and winter.
ZONE = "Europe/Moscow"


@contextmanager
def changing(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as connection:
        yield connection
        connection.commit()


def earlier(time: str) -> str:
    shifted = datetime.fromisoformat(time) - timedelta(hours=3)
    return f"{shifted:%Y-%m-%dT%H:%M:%S.%fZ}"


def shifted(session: dict[str, Any], *names: str, switches: bool) -> dict[str, Any]:
    """An expected session some of whose times were local ones."""
    moved = {name: earlier(session[name]) for name in names}
    entries = [{**each, "switched_at": earlier(each["switched_at"])} for each in session["switches"]]
    return {**session, **moved, "switches": entries if switches else session["switches"]}


# Local times


async def test_every_time_of_the_first_version_is_local(sqlite_url: str, tmp_path: Path) -> None:
    await import_into(sqlite_url, str(unpack("174717a.db", tmp_path)), zone=ZONE)
    wanted = [
        shifted(session, "created_at", "last_activity", switches=True)
        for session in by_creation(expected("174717a.db"))
    ]
    assert as_json(fitting(await read_all(sqlite_url), wanted)) == as_json(wanted)


async def test_some_times_of_the_second_version_are_local(sqlite_url: str, tmp_path: Path) -> None:
    path = unpack("c4e3664.db", tmp_path)
    await import_into(sqlite_url, str(path), zone=ZONE)
    wanted = [
        shifted(session, "last_activity", switches=True) for session in by_creation(expected("c4e3664.db"))
    ]
    assert as_json(fitting(await read_all(sqlite_url), wanted)) == as_json(wanted)
    async with open_store(sqlite_url) as store:
        context = await store.get_context("63ee2841-3760-57e4-a19d-3d67c3c844ce")
    assert f"{context.created_at:%H:%M} {context.updated_at:%H:%M}" == "10:28 13:44"


@pytest.mark.parametrize("is_local", [True, False])
async def test_versions_with_the_same_tables_are_told_by_their_messages(
    sqlite_url: str, tmp_path: Path, is_local: bool
) -> None:
    """ce8d0d0 wrote local times where ec0971d wrote UTC."""
    path = unpack("ec0971d.db", tmp_path)
    if is_local:
        with changing(path) as connection:
            for table, column in (("sessions", "last_activity"), ("agent_switches", "switched_at")):
                later = f"strftime('%Y-%m-%d %H:%M:%S', {column}, '+3 hours') || substr({column}, 20)"
                connection.execute(f"UPDATE {table} SET {column} = {later}")
    await import_into(sqlite_url, str(path), zone=ZONE)
    wanted = [
        # Where nothing was said the activity is local in both.
        session if session["messages"] or is_local else shifted(session, "last_activity", switches=False)
        for session in by_creation(expected("ec0971d.db"))
    ]
    assert as_json(fitting(await read_all(sqlite_url), wanted)) == as_json(wanted)


async def test_of_later_versions_the_activity_of_an_empty_session_is_local(
    sqlite_url: str, tmp_path: Path
) -> None:
    await import_into(sqlite_url, str(unpack("5b01f1b.db", tmp_path)), zone=ZONE)
    wanted = [
        session if session["messages"] else shifted(session, "last_activity", switches=False)
        for session in by_creation(expected("5b01f1b.db"))
    ]
    assert as_json(fitting(await read_all(sqlite_url), wanted)) == as_json(wanted)


@pytest.mark.parametrize("zone", ["", ZONE])
async def test_a_postgres_without_zones_is_utc_or_as_told(
    sqlite_url: str, empty_postgres_url: str, zone: str
) -> None:
    """As the first versions on Postgres made it."""
    restore(empty_postgres_url)
    with psycopg.connect(empty_postgres_url) as connection:
        columns = connection.execute(
            "SELECT table_name, column_name FROM information_schema.columns"
            " WHERE table_schema = 'public' AND data_type = 'timestamp with time zone'"
        ).fetchall()
        for names in columns:
            change = "ALTER TABLE {0} ALTER {1} TYPE timestamp USING {1} AT TIME ZONE 'UTC'"
            connection.execute(sql.SQL(change).format(*map(sql.Identifier, names)))
    await import_into(sqlite_url, empty_postgres_url, zone=zone)
    wanted = by_creation(expected(DUMP))
    found = fitting(await read_all(sqlite_url), wanted)
    if not zone:
        assert as_json(found) == as_json(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one["created_at"] == (earlier(other["created_at"]) if zone else other["created_at"])


async def test_a_time_that_is_none_is_replaced_and_named(sqlite_url: str, tmp_path: Path) -> None:
    path = unpack("d1fce7d.db", tmp_path)
    with changing(path) as connection:
        connection.execute("UPDATE sessions SET last_activity = 'soon' WHERE title = 'tick 1'")
        connection.execute("UPDATE messages SET timestamp = '0001-01-01 00:00:00' WHERE content = 'tick 1'")
        connection.execute("UPDATE messages SET timestamp = '' WHERE content = 'tick 1'")
    report = await import_into(sqlite_url, str(path))
    assert report.changed["times_replaced"] == 2
    assert report.differing.things == 0


# Names


async def test_sessions_agents_and_calls_without_a_proper_name_are_listed(
    database_url: str, tmp_path: Path
) -> None:
    path = unpack("c4e3664.db", tmp_path)
    with changing(path) as connection:
        insert = "INSERT INTO sessions (session_id, created_at, last_activity) VALUES (?, ?, ?)"
        for id in ("", "a\nb", "a\0b", "x" * 256):
            connection.execute(insert, (id, "2026-01-01 00:00:00.000000", "2026-01-01 00:00:00.000000"))
        connection.execute("UPDATE agent_switches SET to_agent = 'a\x01' WHERE to_agent = 'debug'")
    report = await import_into(database_url, str(path))
    assert report.lost == {"sessions_refused": 4, "switches_refused": 1}
    assert (report.stored.sessions, report.stored.switches, report.differing.things) == (12, 7, 0)
    text = "\n".join(report.lines())
    assert "session 'a\\nb' with 0 messages" in text


async def test_approvals_that_have_no_place_are_listed(database_url: str, tmp_path: Path) -> None:
    path = unpack("aa20a02.db", tmp_path)
    with changing(path) as connection:
        connection.execute("UPDATE pending_approvals SET status = 'lost' WHERE call_id = 'call_waits'")
        connection.execute("UPDATE pending_approvals SET call_id = 'a\x01' WHERE call_id = 'call_old'")
        connection.execute("UPDATE pending_approvals SET call_id = 'call_ok' WHERE call_id = 'call_no'")
    report = await import_into(database_url, str(path))
    assert report.lost == {"approvals_refused": 3, "approvals_without_session": 1}
    assert (report.stored.approvals, report.differing.things) == (2, 0)


# Texts and structures

ODD_MESSAGES = [
    {"role": "user", "content": "half \ud83d of one, and a whole \U0001f642", "name": None},
    {"role": "user", "content": "a \0 stays", "own": {"kept": [1.50, 2**70, None]}},
    {"content": "no role"},
    {"role": "assistant", "content": {"a": 1}, "tool_calls": {"id": "c"}, "metadata": [float("nan")]},
    {"role": "assistant", "content": [{"type": "text", "text": "parts"}], "name": 5},
    {"role": "wizard", "content": "no place"},
    "only text",
]


async def test_odd_messages_arrive_as_far_as_they_can(database_url: str, tmp_path: Path) -> None:
    path = unpack("174717a.db", tmp_path)
    with changing(path) as connection:
        connection.execute("DELETE FROM sessions WHERE session_id <> 'чат-7'")
        connection.execute("DELETE FROM agent_contexts")
        connection.execute("UPDATE sessions SET messages = ?", (json.dumps(ODD_MESSAGES),))
    report = await import_into(database_url, str(path))
    assert report.lost == {"messages_refused": 1}
    assert report.changed == {"messages_changed": 4}
    assert report.differing.things == 0
    async with open_store(database_url) as store:
        page = await store.list_messages("чат-7")
        raw = [bytes(each).decode() for each in page.encoded]
    first, second, third, fourth, fifth, last = page.messages
    assert first["content"] == "half \\ud83d of one, and a whole \U0001f642"
    assert "name" not in first
    assert second["content"] == "a \0 stays"
    assert '"own":{"kept":[1.5,1180591620717411303424,null]}' in raw[1]
    assert (third["role"], third["content"]) == ("user", "no role")
    assert (fourth["content"], fourth["tool_calls"]) == ('{"a":1}', [{"id": "c"}])
    assert fourth["metadata"] == {"value": ["nan"]}
    assert (fifth["content"], fifth["name"]) == ([{"type": "text", "text": "parts"}], "5")
    assert last["content"] == "only text"


async def test_odd_columns_arrive_as_far_as_they_can(database_url: str, tmp_path: Path) -> None:
    path = unpack("d1fce7d.db", tmp_path)
    with changing(path) as connection:
        connection.execute("UPDATE sessions SET title = CAST(x'41ff42' AS text) WHERE title = 'tick 1'")
        connection.execute(
            "UPDATE messages SET tool_calls = '{\"id\": 1}', metadata_json = 'no json'"
            " WHERE content = 'tick 1'"
        )
        connection.execute("UPDATE messages SET tool_calls = 'deep' WHERE content = 'tick 2'")
        connection.execute(
            "UPDATE messages SET tool_calls = 'null', metadata_json = 'null' WHERE role = 'tool'"
        )
        connection.execute("UPDATE agent_contexts SET metadata_json = '[1]'")
        connection.execute("UPDATE pending_approvals SET arguments = '\"\\ud83d\"' WHERE call_id = 'call_ok'")
    report = await import_into(database_url, str(path))
    assert report.lost == {"approvals_without_session": 1}
    assert report.changed == {"metadata_wrapped": 5, "messages_changed": 2, "texts_escaped": 2}
    assert report.differing.things == 0
    sessions = {session["session_id"]: session for session in await read_all(database_url)}
    odd = sessions["f6a14c6c-572e-5305-a4bf-80c72b9cc5ba"]
    assert odd["title"] == "A\\udcffB"
    message = odd["messages"][0]
    assert (message["tool_calls"], message["metadata"]) == ([{"id": 1}], {"value": "no json"})
    assert odd["messages"][1]["tool_calls"] == ["deep"]
    tools = [each for session in sessions.values() for each in session["messages"] if each["role"] == "tool"]
    assert tools
    assert not any({"tool_calls", "metadata"} & each.keys() for each in tools)
    assert sessions["63ee2841-3760-57e4-a19d-3d67c3c844ce"]["context_metadata"] == {"value": [1]}
    approvals = sessions["1086625a-2ab9-5d23-868c-05127042c7e1"]["approvals"]
    assert approvals[0]["arguments"] == "\\ud83d"


# Tables of several versions in one file


async def test_each_table_is_read_by_its_own_columns(database_url: str, tmp_path: Path) -> None:
    """A later version has opened the file: it made the tables that lacked, and left the others."""
    path = unpack("d1fce7d.db", tmp_path)
    with changing(path) as connection:
        connection.execute("CREATE TABLE plans (id text, session_id text, goal text)")
        connection.execute("CREATE TABLE subtasks (id text, plan_id text)")
        connection.execute("CREATE TABLE fsm_states (id text, session_id text, current_state text)")
        connection.execute("INSERT INTO plans VALUES ('p', 's', 'g')")
    wanted = by_creation(expected("d1fce7d.db"))
    report = await import_into(database_url, str(path))
    assert report.lost == {"approvals_without_session": 1, "plans": 1}
    assert as_json(fitting(await read_all(database_url), wanted)) == as_json(wanted)


async def test_tables_left_by_an_earlier_start_of_ours_do_no_harm(sqlite_url: str, tmp_path: Path) -> None:
    path = unpack("c4e3664.db", tmp_path)
    with changing(path) as connection:
        connection.execute("CREATE TABLE _yoyo_migration (migration_id text)")
        connection.execute(
            "CREATE TABLE pending_approvals (session_db_id integer, call_id text, status text)"
        )
        connection.execute("CREATE TABLE tokens (id text, hash text)")
    report = await import_into(sqlite_url, str(path))
    assert (report.stored.sessions, report.lost) == (12, {})


async def test_switches_without_a_session_are_listed(sqlite_url: str, tmp_path: Path) -> None:
    """The clean-up of the older service erased sessions alone."""
    path = unpack("d1fce7d.db", tmp_path)
    with changing(path) as connection:
        connection.execute("DELETE FROM sessions WHERE id = '63ee2841-3760-57e4-a19d-3d67c3c844ce'")
    report = await import_into(sqlite_url, str(path))
    assert report.lost == {
        "approvals_without_session": 1,
        "contexts_without_session": 1,
        "messages_without_session": 16,
        "switches_without_session": 4,
    }
    assert (report.stored.sessions, report.stored.messages) == (12, 126)
