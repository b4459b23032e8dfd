"""Databases with millions of rows, made by the database itself in a minute or two."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import asyncpg

from runtime.models import DEFAULT_AGENT
from tests.support.database_locks import sqlite_path
from tests.support.filled_database import NUMBERS, WORDS

TEXT = '"Could you find me a flight that leaves early, please? Thanks"'

# The ids of an empty database begin at 1, so the n-th session has the id n.
SESSIONS = f"""
    INSERT INTO sessions (owner, session_id, metadata, created_at, last_activity, is_active, version,
                          last_seq, message_count, token_total, cut_version, changed_version,
                          first_user_seq, first_user_text)
    WITH {{numbers}}
    SELECT '', 'session-' || n, '{{{{}}}}', {{time}}, {{time}}, {{true}}, {{each}},
           {{each}}, {{each}}, 0, 0, 0,
           1, '{TEXT}' FROM n
"""
CONTEXTS = f"""
    INSERT INTO agent_contexts (session_db_id, current_agent, created_at, updated_at, switch_count, metadata)
    SELECT id, '{DEFAULT_AGENT}', created_at, created_at, 0, '{{{{}}}}' FROM sessions ORDER BY id
"""
MESSAGES = f"""
    INSERT INTO messages (session_db_id, seq, role, content, timestamp)
    WITH {{numbers}}
    SELECT 1 + (n - 1) / {{each}}, 1 + (n - 1) % {{each}},
           CASE WHEN (n - 1) % {{each}} % 2 = 0 THEN 'user' ELSE 'assistant' END, '{TEXT}', {{time}} FROM n
"""

# What holds a database up that must lose nothing; afterwards it is as one that has been in use for long.
# What refers to what is right as it is written, and is not looked up ten million times.
POSTGRES_BEFORE = ("SET synchronous_commit = off", "SET session_replication_role = replica")
POSTGRES_AFTER = ("VACUUM (ANALYZE)", "CHECKPOINT")
SQLITE_BEFORE = ("PRAGMA journal_mode = DELETE", "PRAGMA synchronous = OFF", "BEGIN")
SQLITE_AFTER = ("COMMIT", "ANALYZE", "PRAGMA journal_mode = WAL")


class Filled(NamedTuple):
    """How long it took in seconds, and how large the database is in bytes."""

    seconds: float
    size: int


async def fill(url: str, sessions: int, each: int) -> Filled:
    """Put so many sessions of `each` messages into a migrated database that has none and nobody has open."""
    started = time.perf_counter()
    size = _fill_sqlite if url.startswith("sqlite") else _fill_postgres
    return Filled(size=await size(url, sessions, each), seconds=time.perf_counter() - started)


def _inserts(dialect: str, sessions: int, each: int) -> Iterator[str]:
    words = {**WORDS[dialect], "each": each}
    for insert, rows in ((SESSIONS, sessions), (CONTEXTS, sessions), (MESSAGES, sessions * each)):
        yield insert.format(numbers=NUMBERS[dialect].format(rows=rows), **words)


async def _fill_postgres(url: str, sessions: int, each: int) -> int:
    connection = await asyncpg.connect(url)
    try:
        for statement in (*POSTGRES_BEFORE, *_inserts("postgres", sessions, each), *POSTGRES_AFTER):
            await connection.execute(statement)
        size: int = await connection.fetchval("SELECT pg_database_size(current_database())")
        return size
    finally:
        await connection.close()


async def _fill_sqlite(url: str, sessions: int, each: int) -> int:
    path = Path(sqlite_path(url))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in (*SQLITE_BEFORE, *_inserts("sqlite", sessions, each), *SQLITE_AFTER):
            connection.execute(statement)
    return path.stat().st_size
