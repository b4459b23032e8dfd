"""A database as it looks after a while: 10,000 sessions, 200,000 messages and what goes with them."""

from __future__ import annotations

from collections.abc import Iterator

SESSIONS = 10_000
MESSAGES = 20
TURNS = 3
EVENTS = 4
# One turn has spoken for a long time.
TALKER, TALK = 4711, 5_000
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
    # Three labels each that every session has, and one of a member of its metadata.
    "session_labels": (
        "session_db_id, name, value, owner",
        "SELECT 1 + (n - 1) / 4,"
        " CASE n % 4 WHEN 0 THEN 'agent' WHEN 1 THEN 'created_at' WHEN 2 THEN 'is_active' ELSE {member} END,"
        " CASE n % 4 WHEN 0 THEN 'coder' WHEN 1 THEN '2026-01-' || (n % 28)"
        " WHEN 2 THEN 'true' ELSE '' || n END,"
        f" {OWNER.replace('n ', '(1 + (n - 1) / 4) ')} FROM n",
        SESSIONS * 4,
    ),
    "unlabelled_sessions": ("session_db_id", "SELECT n * 10 FROM n", SESSIONS // 10),
    "forked_sessions": (
        "session_db_id, forked_from_id, forked_from_seq",
        "SELECT n * 10, 'session ' || n, 5 FROM n",
        SESSIONS // 10,
    ),
    "unfinished_forks": ("session_db_id, instance", "SELECT n, 'instance ' || n FROM n", SESSIONS // 5),
    "bare_sessions": ("session_db_id", "SELECT n * 10 FROM n", SESSIONS // 10),
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
        "session_db_id, call_id, tool_name, arguments, status, created_at, expires_at",
        "SELECT 1 + (n - 1) / 3, 'call ' || n, '\"write\"', {empty},"
        " CASE WHEN n % 9 = 0 THEN 'pending' ELSE 'approved' END, {time},"
        " CASE WHEN n % 2 = 0 THEN {time} END FROM n",
        SESSIONS * 3,
    ),
    # In a third of the sessions one runs; of the others three in four have their events still.
    "turns": (
        "session_db_id, n, turn_id, status, agent, started_at, ended_at, input_tokens, output_tokens,"
        " instance, beat, stop_requested, last_event, text_length, events_kept",
        f"SELECT 1 + (n - 1) / {TURNS}, 1 + (n - 1) % {TURNS}, 'turn ' || n,"
        " CASE WHEN n % 9 = 0 THEN 'running' ELSE 'completed' END, 'coder', {time},"
        " CASE WHEN n % 9 <> 0 THEN {time} END, 1000, 100, 'instance ' || (n % 7), n, n % 1000 = 0,"
        f" {EVENTS}, 0, n % 9 = 0 OR n % 4 <> 1 FROM n",
        SESSIONS * TURNS,
    ),
    "turn_events": (
        "session_db_id, turn_n, n, kind, data",
        f"SELECT CASE WHEN n <= {SESSIONS * TURNS * EVENTS}"
        f" THEN 1 + (n - 1) / {TURNS * EVENTS} ELSE {TALKER} END,"
        f" CASE WHEN n <= {SESSIONS * TURNS * EVENTS} THEN 1 + (n - 1) / {EVENTS} % {TURNS} ELSE 1 END,"
        f" CASE WHEN n <= {SESSIONS * TURNS * EVENTS} THEN 1 + (n - 1) % {EVENTS}"
        f" ELSE n - {SESSIONS * TURNS * EVENTS - EVENTS} END,"
        " CASE WHEN n % 4 < 2 THEN 'text' ELSE 'message' END, 'a few words of it' FROM n",
        SESSIONS * TURNS * EVENTS + TALK,
    ),
    "idempotency_keys": (
        "owner, key, fingerprint, reply, created_at",
        f"SELECT {OWNER}, 'key ' || n, 'fingerprint', {{empty}}, {{time}} FROM n",
        SESSIONS * 3,
    ),
    "tokens": (
        "id, hash, name, owner, scope, created_at",
        f"SELECT 'token ' || n, 'hash', 'name', {OWNER}, 'write', {{time}} FROM n",
        SESSIONS,
    ),
    "imported_sessions": (
        "session_db_id, source, whole_version",
        "SELECT n, 'sqlite:////old.db', CASE WHEN n % 10 > 0 THEN 3 END FROM n",
        SESSIONS,
    ),
    "search_entries": (
        "id, session_db_id, seq, words",
        f"SELECT n, 1 + (n - 1) / {MESSAGES}, 1 + (n - 1) % {MESSAGES}, {{words}} FROM n",
        SESSIONS * 2,
    ),
    "search_queue": ("writer, queued_at, ranges", "SELECT 'writer ' || n % 3, {time}, '[]' FROM n", SESSIONS),
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
        "member": "'metadata\"k\"'",
        "time": "timestamptz '2026-01-01 00:00:00+00' + n * interval '30 s'",
        "true": "true",
        "words": "array_to_tsvector(ARRAY['w' || n % 1000, '@oowner'])",
    },
    "sqlite": {
        "empty": "'{}'",
        "member": "'metadata\"k\"'",
        "time": "strftime('%Y-%m-%dT%H:%M:%S.000000Z', 1767225600 + n * 30, 'unixepoch')",
        "true": "1",
        "words": "'w' || n % 1000 || ' @oowner'",
    },
}


def filling(dialect: str) -> Iterator[str]:
    """The statements that fill an empty database, in order."""
    for table, (columns, select, rows) in INSERTS.items():
        numbers = NUMBERS[dialect].format(rows=rows)
        yield f"INSERT INTO {table} ({columns}) WITH {numbers} {select.format(**WORDS[dialect])}"
