"""W11: SIGTERM ends a server on SQLite in the middle of a statement of hours, or of a disk that hangs."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import aiohttp

from tests.faults.recorded_disk import compile_shim, recorded
from tests.faults.stored import find_damage, read_database
from tests.process.http_client import http_client
from tests.support.database_locks import slow_to_insert
from tests.support.server_process import SERVE, ServerProcess, start_server

SHUTDOWN_TIMEOUT = 4.0
# A process that is never ended is not taken for one that a busy machine has no time for.
PATIENCE = 5 * SHUTDOWN_TIMEOUT


async def ask_for_writes(url: str, *contents: str) -> list[int]:
    """The status of each answer; 0 where the connection broke."""

    async def ask(content: str) -> int:
        async with aiohttp.ClientSession() as http:
            try:
                message = {"role": "user", "content": content}
                async with http.post(f"{url}/sessions/s/messages", json=message) as reply:
                    return reply.status
            except aiohttp.ClientError:
                return 0

    return await asyncio.gather(*map(ask, contents))


async def end_while_it_writes(server: ServerProcess, *contents: str) -> list[int]:
    """Ask for writes, send SIGTERM while the first is under way, and wait for the end of the process."""
    async with http_client(server.url) as client:
        await client.post("/sessions", {"session_id": "s"})
        writes = asyncio.create_task(ask_for_writes(server.url, *contents))
        async with asyncio.timeout(PATIENCE):
            while await client.read_metric("pending_writes") < len(contents):  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.01)
    server.send(signal.SIGTERM)
    async with asyncio.timeout(PATIENCE):
        assert await asyncio.to_thread(server.wait) == 1
    return await writes


async def test_w11_a_write_that_takes_hours_is_broken_off(sqlite_url: str) -> None:
    """The process went on for as long as the statement did: over two minutes for a deletion."""
    await slow_to_insert(sqlite_url)
    with start_server({"DB_URL": sqlite_url, "SHUTDOWN_TIMEOUT": str(SHUTDOWN_TIMEOUT)}) as server:
        answers = await end_while_it_writes(server, "slow", "quick")
    assert set(answers) <= {0, 503}
    assert "2 writes could not be stored, or were not confirmed" in server.log
    assert "exiting at once" not in server.log
    assert "Traceback" not in server.log
    assert read_database(sqlite_url)["s"].messages == []
    assert not find_damage(sqlite_url)


async def test_w11_a_disk_that_does_not_answer_holds_up_nobody_for_ever(
    sqlite_url: str, tmp_path: Path
) -> None:
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    # The first two are of the header of the WAL, and of the session.
    command = recorded(SERVE, compile_shim(tmp_path), path, tmp_path / "log", "sync wal 0 3 1")
    env = {"DB_URL": sqlite_url, "SHUTDOWN_TIMEOUT": str(SHUTDOWN_TIMEOUT)}
    with ServerProcess(env, command=command) as server:
        await asyncio.to_thread(server.wait_until_listening)
        answers = await end_while_it_writes(server, "x")
    assert set(answers) <= {0, 503}
    assert "exiting at once, writes may be lost" in server.log
    assert not find_damage(sqlite_url)
