"""Another program keeps a transaction open that reads the SQLite file: the WAL grows, and that is told."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.db.sqlite_wal import WAL_LIMIT, WAL_SECONDS
from tests.faults.conftest import Report
from tests.process.http_client import HttpClient, http_client
from tests.support.server_process import start_server

READER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN")
connection.execute("SELECT count(*) FROM sessions").fetchall()
print("reading", flush=True)
sys.stdin.read()
"""
MESSAGE = {"role": "user", "content": "x" * 1_000_000}
# The WAL is looked at so often; a busy machine takes longer.
PATIENCE = WAL_SECONDS * 3

WARNING = "MiB long and grows with every write: something that reads the file"
RELIEF = "is cut back to"


@contextmanager
def reader(path: Path) -> Iterator[None]:
    """Another process has a transaction open that reads."""
    command = [sys.executable, "-c", READER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "reading\n"
        try:
            yield
        finally:
            process.kill()


async def test_a_pinned_wal_is_logged_and_shrinks_after_the_reader(
    sqlite_url: str, rounds: int, report: Report
) -> None:
    """Each further round keeps the transaction open for a minute more."""
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    with start_server({"DB_URL": sqlite_url}) as server:
        async with http_client(server.url) as client:
            await client.post("/sessions", {"session_id": "s"})
            with reader(path):
                await outgrow(client)
                await until(lambda: WARNING in server.log)
                for _ in range(60 * (rounds - 1)):
                    await client.post("/sessions/s/messages", MESSAGE)
                    await asyncio.sleep(1)
                # Writing goes on, and again the WAL is looked at.
                await client.post("/sessions/s/messages", MESSAGE)
                await asyncio.sleep(WAL_SECONDS + 1)
                longest = await client.read_metric("wal_bytes")
                assert longest > WAL_LIMIT
            await until(lambda: RELIEF in server.log)
            assert await client.read_metric("wal_bytes") <= WAL_LIMIT
            stored = len(await client.read_forward("s", 10))
        assert (server.log.count(WARNING), server.log.count(RELIEF)) == (1, 1)
        assert "could not be cut back" not in server.log
        assert server.stop() == 0
    report(rounds=rounds, longest_mib=longest / 2**20, messages=stored)


async def outgrow(client: HttpClient) -> None:
    while await client.read_metric("wal_bytes") <= WAL_LIMIT:
        await client.post("/sessions/s/messages", MESSAGE)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)
