"""What stands in a database, read by drivers of our own: the statements of the program are not trusted."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg

from tests.support.server_process import run_command

SESSIONS = """
    SELECT s.session_id, s.version, s.last_seq, s.message_count, c.current_agent
      FROM sessions AS s JOIN agent_contexts AS c ON c.session_db_id = s.id
"""
MESSAGES = """
    SELECT s.session_id, m.seq, CAST(m.content AS text)
      FROM sessions AS s JOIN messages AS m ON m.session_db_id = s.id
     ORDER BY s.id, m.seq
"""
SWITCHES = """
    SELECT s.session_id, w.from_agent, w.to_agent
      FROM sessions AS s JOIN agent_switches AS w ON w.session_db_id = s.id
     ORDER BY s.id, w.n
"""


@dataclass
class StoredSession:
    """A session as the database has it: its head, its messages and its handovers, in order."""

    version: int = 0
    last_seq: int = 0
    message_count: int = 0
    agent: str = ""
    messages: list[tuple[int, Any]] = field(default_factory=list)
    switches: list[tuple[str, str]] = field(default_factory=list)


Stored = dict[str, StoredSession]


def read_database(url: str) -> Stored:
    """Every session by its id, as they stand while nobody writes. A SQLite file is only read."""
    with _connected(url) as connection:
        stored = {row[0]: StoredSession(*row[1:]) for row in connection.execute(SESSIONS)}
        for session, seq, content in connection.execute(MESSAGES):
            stored[session].messages.append((seq, json.loads(content)))
        for session, *switch in connection.execute(SWITCHES):
            stored[session].switches.append((switch[0], switch[1]))
    return stored


@contextmanager
def _connected(url: str) -> Iterator[Any]:
    if url.startswith("sqlite:///"):
        path = url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            yield connection
    else:
        with psycopg.connect(url) as connection:
            yield connection


def find_damage(url: str) -> list[str]:
    """What `agent-runtime check` finds wrong. On SQLite no server may have the file."""
    found = run_command("check", env={"DB_URL": url})
    return [] if found.returncode == 0 else [f"damage: {found.stdout}{found.stderr}"]
