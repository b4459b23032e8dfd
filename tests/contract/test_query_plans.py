"""Every statement of sql/ explained on a filled database: none reads a whole table unless it is meant to."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from runtime.db.postgres import SESSION
from runtime.db.queries import Query, load_queries
from runtime.db.sqlite_dialect import bind
from tests.support.filled_database import INSERTS, filling
from tests.support.postgres_server import PostgresServer

pytestmark = pytest.mark.slow

# Whoever reads a whole table, and why that is meant.
MEANT = {
    "count_everything": "a person asks for it, seldom",
    "list_wrong_heads": "a person asks for it, seldom",
    "list_applied_migrations": "a table of a few rows",
    "allocate_session_ids": "SQLite keeps one row a table in sqlite_sequence",
    "raise_batch": "writers has one row an instance",
    "lock_batch": "writers has one row an instance",
    "delete_writer": "writers has one row an instance",
    "delete_old_writers": "writers has one row an instance",
    **dict.fromkeys(
        ("find_erasable", "lock_cut_sessions", "lock_released_sessions"),
        "an index of what is left to erase, and no more",
    ),
    "count_waiting_approvals": "an index of what is left to erase, and no more",
    "find_oldest_idempotency_key": "the first entry of an index",
    "list_tokens": "a person asks for it, seldom",
    "find_any_token": "the first row of a table",
    "list_columns": "the catalogue, once at the start",
    "count_sessions_of_others": "an import asks for it, once",
    "list_search_queue": "as many rows as batches of the last moments",
    "find_search_progress": "as many rows as batches of the last moments, and the last session",
    "update_search_backfill": "a table of one row",
    **dict.fromkeys(
        ("find_unlabelled_session", "lock_unlabelled_sessions"), "a table of what is left to label"
    ),
    "list_unfinished_forks": "a table of the copies that are being made",
    "find_instance": "a view of the connections, as many as there are",
}

EARLY = datetime(2026, 1, 1, 0, 30, tzinfo=UTC)
VALUES: dict[str, Any] = {
    **dict.fromkeys(("id", "session_db_id", "before_id"), 4711),
    **dict.fromkeys(("seq", "after_seq"), 5),
    **dict.fromkeys(("size", "max_bytes"), 100_000),
    **dict.fromkeys(("after_created_at", "waiting_at", "expired_at"), EARLY),
    **dict.fromkeys(("through_seq", "after_n", "after_turn_n"), 15),
    "after_call_id": "call 4711",
    "tables": '["sessions", "messages"]',
    "source": "sqlite:////old.db",
    "whole_version": 3,
    **dict.fromkeys(("last_seq", "message_count", "offset", "limit", "count"), 10),
    **dict.fromkeys(("n", "beat", "before_n", "batch", "switch_count"), 3),
    **dict.fromkeys(("base_version", "version", "cut_version", "changed_version"), 3),
    **dict.fromkeys(("cut_after", "cut_through"), 0),
    **dict.fromkeys(("token_total", "token_count", "first_user_seq"), 1),
    **dict.fromkeys(("idle_before", "deleted_before", "created_before", "written_before"), EARLY),
    **dict.fromkeys(("created_at", "updated_at", "timestamp", "switched_at", "written_at"), EARLY),
    **dict.fromkeys(("last_activity", "before_activity", "expires_at", "decided_at", "deleted_at"), EARLY),
    **dict.fromkeys(("started_at", "ended_at", "ended_before", "now"), EARLY),
    **dict.fromkeys(("turn_n", "from_n", "last_event", "text_length", "input_tokens", "output_tokens"), 1),
    **dict.fromkeys(("stop_requested", "events_kept"), True),
    **dict.fromkeys(("error", "data", "text", "kind", "agent", "instance"), "{}"),
    "turn_id": "turn 14131",
    "after_id": 4711,
    **dict.fromkeys(("title", "description", "metadata", "first_user_text", "content", "name"), "{}"),
    **dict.fromkeys(("tool_call_id", "tool_calls", "extra", "tool_name", "arguments", "reason"), "{}"),
    **dict.fromkeys(("modified_arguments", "feedback", "reply"), "{}"),
    **dict.fromkeys(("role", "status", "current_agent", "from_agent", "to_agent"), "user"),
    "is_active": True,
    "owner": "owner 11",
    "after_owner": "",
    "after_session_id": "session 4711",
    "ids": '["token 4711", "token 9"]',
    **dict.fromkeys(("first_owner", "last_owner"), "owner 11"),
    "through_id": 4711,
    "hash": "hash",
    "scope": "read",
    "revoked_at": EARLY,
    "session_id": "session 4711",
    **dict.fromkeys(("call_id", "after_call_id"), "call 4711"),
    "key": "key 4711",
    "words": '[["w7", false], ["@oowner", false]]',
    **dict.fromkeys(("writer", "notification"), "writer 1"),
    **dict.fromkeys(("queued_at", "queued_before", "after", "before"), EARLY),
    **dict.fromkeys(("through_id", "first_id", "from_id", "pages"), 1),
    "below_id": 9_000_000,
    "places": "[[1, 1], [4711, 2]]",
    "ranges": "[[1, 0, 2], [4711, 2, 5]]",
    "fingerprint": "f",
    "payload": "p",
    "session_db_ids": "[1, 4711]",
    "call_ids": '["call 4711", "call 1"]',
    "ends": "[[1, 9223372036854775807, 0, 0], [4711, 10, 3, 5]]",
    **dict.fromkeys(("after_activity",), EARLY),
    "value": "true",
    "forked_from_id": "session 1",
    "forked_from_seq": 5,
    "source_db_id": 4712,
    "spans": '[["coder", "coder"]]',
    "conditions": '[["agent", "coder", "coder", "coder", "coder"]]',
    "include_deleted": True,
    "steps": 100,
    "first_name": "metadata",
    "keys": '[["owner 11", "session 4711"], ["", "session 4712"]]',
}
KEYS = {"delete_idempotency_keys": '["key 4711", "key 9"]'}
NAMES = {
    "list_idempotency_keys": '[["owner 11", "key 4711"], ["", "key 4712"]]',
    **dict.fromkeys(
        ("list_named_approvals", "list_decisions", "list_edited_arguments"),
        '[[4711, "call 4711"], [1, "call 1"]]',
    ),
}
KEYED_BY_NAME = {
    **dict.fromkeys(("raise_batch", "lock_batch", "delete_writer"), "writer 1"),
    **dict.fromkeys(("insert_token", "revoke_token"), "token 4711"),
}
# A plan is of statements that read or change rows.
STATEMENTS = {name: query for name, query in load_queries("sqlite").items() if query.name != "vacuum"}


def values(query: Query) -> list[Any]:
    own: dict[str, Any] = {"names": NAMES.get(query.name), "keys": KEYS.get(query.name)}
    if query.name in KEYED_BY_NAME:
        own["id"] = KEYED_BY_NAME[query.name]
    return [own.get(name) or VALUES[name] for name in query.parameters]


def test_what_is_meant_is_a_statement() -> None:
    assert MEANT.keys() <= STATEMENTS.keys()


# SQLite: as it runs, without ANALYZE.


@pytest.fixture(scope="module")
def filled_sqlite(
    sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[sqlite3.Connection]:
    path = tmp_path_factory.mktemp("plans") / "filled.db"
    shutil.copyfile(sqlite_template, path)
    with closing(sqlite3.connect(path)) as connection:
        for statement in filling("sqlite"):
            connection.execute(statement)
        connection.commit()
        yield connection


@pytest.mark.parametrize("name", STATEMENTS)
def test_sqlite_scans_no_table(filled_sqlite: sqlite3.Connection, name: str) -> None:
    query = load_queries("sqlite")[name]
    plan = filled_sqlite.execute(f"EXPLAIN QUERY PLAN {query.sql}", bind(values(query)))
    steps = [row[3] for row in plan]
    scans = [step for step in steps if (found := re.match(r"SCAN (\w+)", step)) and found[1] in tables(query)]
    assert name in MEANT or scans == [], steps


def tables(query: Query) -> set[str]:
    """The names that the statement knows tables by."""
    known = "|".join([*INSERTS, "_yoyo_migration", "sqlite_sequence"])
    found = re.findall(rf"\b({known})\b(?:\s+AS\s+(\w+))?", query.sql)
    return {alias or table for table, alias in found} | {table for table, _ in found}


# Postgres: after ANALYZE, which its autovacuum runs by itself.

SETTINGS = " ".join(
    "-c {}={}".format(setting, value.replace(" ", r"\ ")) for setting, value in SESSION.items()
)
INDEXED = ("Index Scan", "Index Only Scan", "Bitmap Index Scan")


@pytest.fixture(scope="module")
def filled_postgres(postgres_server: PostgresServer, postgres_template: str) -> Iterator[str]:
    name = postgres_server.create(postgres_template)
    with psycopg.connect(postgres_server.url(name), autocommit=True) as connection:
        for statement in filling("postgres"):
            connection.execute(statement)
        connection.execute("VACUUM ANALYZE")
    yield postgres_server.url(name)
    postgres_server.drop(name)


@pytest.mark.parametrize("name", STATEMENTS)
def test_postgres_scans_no_table(filled_postgres: str, name: str) -> None:
    with psycopg.connect(filled_postgres, options=SETTINGS) as connection:
        scans = [node for node in explain(connection, name) if is_whole(node)]
    assert name in MEANT or scans == [], scans


def explain(connection: psycopg.Connection, name: str) -> list[dict[str, Any]]:
    """The steps of the one plan that Postgres has for all parameters: `plan_cache_mode` in SESSION."""
    query = load_queries("postgres")[name]
    [row] = connection.execute(f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {query.sql}".encode())
    return list(nodes(row[0][0]["Plan"]))


# Statistics that know no owner but the one who has nearly all: Postgres expects what it reads to be theirs.


@pytest.fixture(scope="module")
def one_large_owner(postgres_server: PostgresServer, postgres_template: str) -> Iterator[psycopg.Connection]:
    name = postgres_server.create(postgres_template)
    with psycopg.connect(postgres_server.url(name), autocommit=True, options=SETTINGS) as connection:
        for statement in filling("postgres"):
            connection.execute(statement)
        connection.execute("UPDATE sessions SET owner = ''")
        connection.execute("ANALYZE")
        connection.execute("UPDATE sessions SET owner = 'small' WHERE id <= 30")
        yield connection
    postgres_server.drop(name)


@pytest.mark.parametrize("name", ["list_sessions", "list_sessions_and_deleted"])
def test_a_page_of_a_small_owner_is_found_by_owner(one_large_owner: psycopg.Connection, name: str) -> None:
    found = explain(one_large_owner, name)
    indexes = {node["Index Name"]: node["Index Cond"] for node in found if node.get("Node Type") in INDEXED}
    assert "sessions_live" in indexes
    by_key = {"sessions_pkey", "agent_contexts_pkey", "forked_sessions_pkey"}
    assert indexes.keys() <= {"sessions_live", "sessions_deleted", *by_key}
    assert "owner" in indexes["sessions_live"]


@pytest.mark.parametrize("name", ["list", "measure", "count"])
def test_sessions_that_have_a_label_are_looked_up_by_id(
    one_large_owner: psycopg.Connection, name: str
) -> None:
    found = explain(one_large_owner, f"{name}_labelled_sessions")
    indexes = {node["Index Name"] for node in found if node.get("Node Type") in INDEXED}
    by_key = {"sessions_pkey", "agent_contexts_pkey", "forked_sessions_pkey", "session_labels_pkey"}
    assert indexes <= {"session_labels_value", *by_key}


@pytest.mark.parametrize("name", ["list", "measure"])
def test_a_list_is_read_in_its_order_where_a_filter_passes_many(
    one_large_owner: psycopg.Connection, name: str
) -> None:
    found = explain(one_large_owner, f"{name}_walked_sessions")
    kinds = {node.get("Index Name"): node.get("Node Type") for node in found}
    # In its order: a bitmap has none.
    assert kinds["sessions_live"] == "Index Scan"


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield {key: value for key, value in plan.items() if key != "Plans"}
    for part in plan.get("Plans", []):
        yield from nodes(part)


def is_whole(node: dict[str, Any]) -> bool:
    """Whether a step reads all of a table, or all of an index."""
    kind = node.get("Node Type", "")
    return kind == "Seq Scan" or (kind.startswith(("Index", "Bitmap Index")) and "Index Cond" not in node)
