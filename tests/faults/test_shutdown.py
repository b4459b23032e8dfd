"""W11: an orderly end in the middle of everything."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import aiohttp
import pytest

from tests.faults.checker import check, count
from tests.faults.conftest import Report
from tests.faults.load import Load
from tests.faults.restarted_server import MortalServer, mortal_server
from tests.faults.stored import find_damage, read_database

SHUTDOWN_TIMEOUT = 10.0
# Readers of a session in which nothing happens, and of one to which everybody writes.
QUIET, BUSY = 950, 50
WRITES = 100


@pytest.mark.rounds(1)
async def test_w11_sigterm_with_1000_streams_stores_all_and_ends_streams(
    database_url: str, rounds: int, seed: int, report: Report
) -> None:
    settings = {"DB_URL": database_url, "SHUTDOWN_TIMEOUT": str(SHUTDOWN_TIMEOUT)}
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    seconds = []
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout) as http,
        mortal_server(settings) as server,
    ):
        load = Load([server.target], seed=seed, writers=8)
        async with load.running():
            for _ in range(rounds):
                streams = await open_streams(http, server.target.url)
                await load.work(WRITES)
                seconds.append(await stop(server))
                assert Counter(await asyncio.gather(*streams)) == {"ended well": QUIET + BUSY}
                await server.start()
        assert await server.stop() == 0
    findings = check(load.journal, read_database(database_url)) + find_damage(database_url)
    report(
        streams=QUIET + BUSY,
        acknowledged=load.journal.count("acknowledged"),
        lost=count(findings, "lost"),
        seconds=max(seconds),
        of=SHUTDOWN_TIMEOUT,
    )
    assert not findings, "\n".join(findings[:20])
    assert max(seconds) < SHUTDOWN_TIMEOUT


async def open_streams(http: aiohttp.ClientSession, url: str) -> list[asyncio.Task[str]]:
    """All of them have begun; each task says how its stream ended."""
    async with http.put(f"{url}/sessions/quiet") as reply:
        assert reply.status in (200, 201)
    paths = [f"{url}/sessions/quiet/events"] * QUIET + [f"{url}/sessions/load-0/events"] * BUSY
    replies = await asyncio.gather(*map(http.get, paths))
    assert {reply.status for reply in replies} == {200}
    return [asyncio.create_task(read_to_the_end(reply)) for reply in replies]


async def read_to_the_end(reply: aiohttp.ClientResponse) -> str:
    """A chunked body that breaks off has no last chunk, and is an error."""
    async with reply:
        try:
            async for _ in reply.content.iter_any():
                pass
        except aiohttp.ClientError as error:
            return repr(error)
        return "ended well"


async def stop(server: MortalServer) -> float:
    """SIGTERM in the middle of it; the seconds until it has ended."""
    began = time.monotonic()
    assert await server.stop() == 0, server.process.log
    server.target.move("")
    assert "could not be stored" not in server.process.log
    assert "Traceback" not in server.process.log
    return time.monotonic() - began
