"""R7: what is large is erased beside other work, and stands in nobody's way."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.faults.conftest import Report
from tests.faults.restarted_server import mortal_server
from tests.migrations.catalogue import query, sqlite_path
from tests.support.long_sessions import make_session

SHUTDOWN_TIMEOUT = 10.0
LENGTH = 60_000
MB = 1_000_000

# The messages as they were kept before, in a tree that compares whole rows.
OLD_SHAPE = """
    CREATE TABLE old (
        session_db_id integer NOT NULL, seq integer NOT NULL, role text NOT NULL, content text NOT NULL,
        timestamp timestamptz NOT NULL, PRIMARY KEY (session_db_id, seq)
    ) WITHOUT ROWID
"""
FILL = """
    WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {rows})
    INSERT INTO {table} (session_db_id, seq, role, content, timestamp)
    SELECT {session}, n, 'user', '"' || hex(zeroblob({bytes} / 2)) || '"', '2026-01-01' FROM n
"""
SESSION = """
    INSERT INTO sessions (id, owner, session_id, metadata, created_at, last_activity, is_active, version,
                          last_seq, message_count, token_total, cut_version, changed_version)
    VALUES ({session}, '', 's{session}', '{{}}', '2026-01-01', '2026-01-01', 1, 1, 0, 0, 0, 0, 0)
"""


def fill(connection: sqlite3.Connection, table: str) -> None:
    """Between two sessions of large messages one of small ones."""
    for session, rows, size in ((1, 12, 2 * MB), (2, 2_000, 100), (3, 12, 2 * MB)):
        connection.execute(FILL.format(table=table, session=session, rows=rows, bytes=size))


@contextmanager
def fresh(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that has read nothing but the schema."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("SELECT 1 FROM messages WHERE false").fetchall()
        yield connection


def bytes_read() -> int:
    """How much this process has read by calls of the system."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


def look_up(path: Path, table: str) -> int:
    """How many bytes a look-up by key reads, next to the large rows."""
    with fresh(path) as connection:
        before = bytes_read()
        sql = f"SELECT role FROM {table} WHERE session_db_id = 2 AND seq = ?"
        assert connection.execute(sql, (1,)).fetchall() == [("user",)]
        assert connection.execute(sql, (2_000,)).fetchall() == [("user",)]
        return bytes_read() - before


def delete(path: Path, table: str) -> int:
    """How many bytes the deletion of the small messages reads."""
    with fresh(path) as connection:
        before = bytes_read()
        done = connection.execute(f"DELETE FROM {table} WHERE session_db_id = 2 AND seq > 0")
        assert done.rowcount == 2_000
        return bytes_read() - before


def test_large_messages_do_not_stand_in_the_way_of_their_neighbours(sqlite_url: str, report: Report) -> None:
    path = sqlite_path(sqlite_url)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(OLD_SHAPE)
        for session in (1, 2, 3):
            connection.execute(SESSION.format(session=session))
        for table in ("messages", "old"):
            fill(connection, table)
        connection.commit()
    looked = {table: look_up(path, table) for table in ("messages", "old")}
    deleted = {table: delete(path, table) for table in ("messages", "old")}
    report(
        kb_read_for_two_look_ups=looked["messages"] / 1e3,
        before=looked["old"] / 1e3,
        kb_read_to_delete_2000=deleted["messages"] / 1e3,
        before_=deleted["old"] / 1e3,
    )
    assert looked["messages"] < 200_000 < looked["old"]
    assert deleted["messages"] < 4 * MB


async def append_until(http: aiohttp.ClientSession, url: str, done: asyncio.Event) -> list[float]:
    """Append to another session all the time; the seconds that each append took."""
    waits = []
    while not done.is_set():
        began = time.monotonic()
        async with http.post(
            f"{url}/sessions/other/messages", json={"role": "user", "content": "x"}
        ) as reply:
            assert reply.status == 201
        waits.append(time.monotonic() - began)
    return waits


@pytest.mark.parametrize("what", ["delete", "cut"])
async def test_r7_others_write_while_a_large_session_is_erased(
    database_url: str, what: str, report: Report
) -> None:
    await make_session(database_url, "large", LENGTH)
    done = asyncio.Event()
    async with mortal_server({"DB_URL": database_url}) as server, aiohttp.ClientSession() as http:
        url = server.target.url
        async with http.put(f"{url}/sessions/other") as reply:
            assert reply.status == 201
        writing = asyncio.create_task(append_until(http, url, done))
        await asyncio.sleep(0)
        began = time.monotonic()
        path = "large?hard=true" if what == "delete" else "large/messages?after=1"
        async with http.delete(f"{url}/sessions/{path}") as reply:
            assert reply.status in (200, 204)
        async with asyncio.timeout(300):
            while query(database_url, "SELECT count(*) FROM messages WHERE session_db_id = 1")[0][0] > 1:  # noqa: ASYNC110 - no event says so
                await asyncio.sleep(0.05)
        seconds = time.monotonic() - began
        done.set()
        waits = await writing
    report(rows=LENGTH, seconds=seconds, others=len(waits), worst_wait=max(waits))
    # In portions: in one transaction somebody would have waited for nearly all of that time.
    assert max(waits) < seconds / 2
    assert len(waits) > 10


async def test_w11_sigterm_ends_a_server_that_erases_and_the_next_one_goes_on(
    database_url: str, report: Report
) -> None:
    await make_session(database_url, "large", LENGTH)
    rows = "SELECT count(*) FROM messages"
    settings = {"DB_URL": database_url, "SHUTDOWN_TIMEOUT": str(SHUTDOWN_TIMEOUT)}
    async with mortal_server(settings) as server, aiohttp.ClientSession() as http:
        deleting = asyncio.create_task(http.delete(f"{server.target.url}/sessions/large?hard=true"))
        async with asyncio.timeout(60):
            while query(database_url, rows)[0][0] == LENGTH:  # noqa: ASYNC110 - no event says so
                await asyncio.sleep(0.005)
        began = time.monotonic()
        assert await server.stop() == 0, server.process.log
        seconds = time.monotonic() - began
        assert (await deleting).status == 204, "it is gone, whatever is still to be erased"
        assert "Traceback" not in server.process.log
        left = query(database_url, rows)[0][0]
        assert left > 0, "it was stopped too late to show anything"
        assert query(database_url, "SELECT count(*) FROM sessions WHERE owner IS NOT NULL") == [(0,)]
        await server.start()
        async with http.get(f"{server.target.url}/sessions/large") as reply:
            assert reply.status == 404
        async with asyncio.timeout(120):
            while query(database_url, rows)[0][0]:  # noqa: ASYNC110 - no event says so
                await asyncio.sleep(0.05)
        assert await server.stop() == 0
    report(left=left, of=LENGTH, seconds=seconds)
    assert seconds < SHUTDOWN_TIMEOUT
