"""Sessions of any length, made at once: for what has to cost the same however long a session is."""

from __future__ import annotations

from runtime.store.store import open_store
from tests.support.database_locks import execute

WORDS = "It costs what it costs, whatever was said before. " * 4
COLUMNS = "session_db_id, seq, role, size, content, timestamp"
# Every tenth message is a tool's.
MESSAGE = (
    f"id, n, CASE WHEN n % 10 = 0 THEN 'tool' ELSE 'user' END, {len(WORDS) + 2}, '\"{WORDS}\"', created_at"
)
HEAD = "UPDATE sessions SET version = {length}, last_seq = {length}, message_count = {length}"

SQLITE = f"""
    INSERT INTO messages ({COLUMNS})
    WITH RECURSIVE n (n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM n WHERE n < {{length}})
    SELECT {MESSAGE} FROM n, sessions WHERE session_id = '{{name}}';
    {HEAD} WHERE session_id = '{{name}}';
    ANALYZE;
"""
POSTGRES = f"""
    INSERT INTO messages ({COLUMNS})
    SELECT {MESSAGE} FROM generate_series(2, {{length}}) AS n, sessions WHERE session_id = '{{name}}';
    {HEAD} WHERE session_id = '{{name}}';
    ANALYZE;
"""


async def make_session(url: str, name: str, length: int) -> None:
    """Make a session of so many messages in a migrated database that nobody has open."""
    async with open_store(url) as store:
        await store.create_session(name, messages=[{"role": "user", "content": "the first"}])
    values = {"name": name, "length": length}
    await execute(url, SQLITE.format(**values), POSTGRES.format(**values))
