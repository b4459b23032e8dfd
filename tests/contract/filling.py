"""A database as it looks after a while: 10,000 sessions, 200,000 messages and what goes with them."""

from __future__ import annotations

from collections.abc import Iterator

SESSIONS = 10_000
MESSAGES = 20
WRITERS = 3

# Half of the sessions belong to nobody, the rest to a hundred owners; one in twenty is deleted.
OWNER = "CASE WHEN n % 2 = 0 THEN '' ELSE 'owner ' || (n % 100) END"

INSERTS = {
    "sessions": (
        "id, owner, session_id, metadata, created_at, last_activity, is_active, deleted_at, version,"
        " last_seq, message_count, token_total, cut_version, changed_version",
        f"SELECT n, {OWNER}, 'session ' || n, {{empty}}, {{time}}, {{time}}, {{true}},"
        f" CASE WHEN n % 20 = 7 THEN {{time}} END, {MESSAGES}, {MESSAGES}, {MESSAGES}, 0, 0, 0 FROM n",
        SESSIONS,
    ),
    "agent_contexts": (
        "session_db_id, current_agent, created_at, updated_at, switch_count, metadata",
        "SELECT n, 'coder', {time}, {time}, 3, {empty} FROM n",
        SESSIONS,
    ),
    "messages": (
        "session_db_id, seq, role, content, timestamp",
        f"SELECT 1 + (n - 1) / {MESSAGES}, 1 + (n - 1) % {MESSAGES},"
        " CASE WHEN n % 2 = 0 THEN 'user' ELSE 'assistant' END, '\"a few words of it\"', {time} FROM n",
        SESSIONS * MESSAGES,
    ),
    "agent_switches": (
        "session_db_id, n, from_agent, to_agent, switched_at, metadata",
        "SELECT 1 + (n - 1) / 3, 1 + (n - 1) % 3, 'ask', 'coder', {time}, {empty} FROM n",
        SESSIONS * 3,
    ),
    "pending_approvals": (
        "session_db_id, call_id, tool_name, arguments, status, created_at",
        "SELECT 1 + (n - 1) / 3, 'call ' || n, '\"write\"', {empty},"
        " CASE WHEN n % 9 = 0 THEN 'pending' ELSE 'approved' END, {time} FROM n",
        SESSIONS * 3,
    ),
    "idempotency_keys": (
        "owner, key, fingerprint, reply, created_at",
        f"SELECT {OWNER}, 'key ' || n, 'fingerprint', {{empty}}, {{time}} FROM n",
        SESSIONS * 3,
    ),
    "writers": ("id, batch, written_at", "SELECT 'writer ' || n, n, {time} FROM n", WRITERS),
}
NUMBERS = {
    "postgres": "n AS (SELECT n FROM generate_series(1, {rows}) AS s (n))",
    "sqlite": "RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {rows})",
}
# The n-th second of 2026, half a minute apart.
WORDS = {
    "postgres": {
        "empty": "'{}'",
        "time": "timestamptz '2026-01-01 00:00:00+00' + n * interval '30 s'",
        "true": "true",
    },
    "sqlite": {
        "empty": "'{}'",
        "time": "strftime('%Y-%m-%dT%H:%M:%S.000000Z', 1767225600 + n * 30, 'unixepoch')",
        "true": "1",
    },
}


def filling(dialect: str) -> Iterator[str]:
    """The statements that fill an empty database, in order."""
    for table, (columns, select, rows) in INSERTS.items():
        numbers = NUMBERS[dialect].format(rows=rows)
        yield f"INSERT INTO {table} ({columns}) WITH {numbers} {select.format(**WORDS[dialect])}"
