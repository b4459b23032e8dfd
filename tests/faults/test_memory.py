"""R6, R7: readers who take nothing of what is large cost the server little, and others are answered.

`--rounds 2` runs it at full size: forty messages, sessions, approvals and handovers of 8 MB each, and a
hundred writes under keys.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from runtime.api.application import ROUTES
from runtime.store.store import open_store
from tests.faults.conftest import Report
from tests.faults.large_data import ASKED, Amount, fill
from tests.faults.raw_http import connection, memory_of
from tests.support.server_process import ServerProcess

USUAL, FULL = Amount(12, 4_000_000), Amount(40, 8_300_000)
READERS = 8
KEYED = {USUAL: 30, FULL: 100}
# MiB that the process may have more than before, and seconds until another request is answered, on a machine
# with other things to do: both at most.
MEMORY, DELAY = 400.0, 5.0
# Seconds between two requests that see whether the server answers; and how many there are at the end.
EVERY, AT_LAST = 0.02, 25


class Peak:
    """The most memory that a process had since it was made, over what it has at rest."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._base = memory_of(pid)
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the mark of the highest use begins anew

    def grown(self) -> float:
        lines = Path(f"/proc/{self._pid}/status").read_text().splitlines()
        [most] = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
        return int(most) / 1024 - self._base


@asynccontextmanager
async def stalled(url: str, paths: Sequence[str]) -> AsyncIterator[None]:
    """Readers that have asked for these, and take no more than the first byte of what they get."""
    async with AsyncExitStack() as stack:
        waiting = []
        for path in paths:
            reader, writer = await stack.enter_async_context(connection(url, takes=4096))
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            waiting.append(reader.read(1))
        assert b"" not in await asyncio.gather(*waiting)
        yield


async def measure(server: ServerProcess, situation: Callable[[], Awaitable[None]]) -> tuple[float, float]:
    """How much memory a situation takes in MiB, and the longest that another request waits in seconds."""
    peak, delays = Peak(server.pid), list[float]()
    async with aiohttp.ClientSession() as http:

        async def look() -> None:
            began = time.monotonic()
            async with http.get(server.url + "/health") as reply:
                assert reply.status == 200
            delays.append(time.monotonic() - began)
            await asyncio.sleep(EVERY)

        task = asyncio.ensure_future(situation())
        while not task.done():
            await look()
        await task
    return peak.grown(), max(delays)


def readers(server: ServerProcess, paths: Sequence[str]) -> Callable[[], Awaitable[None]]:
    async def situation() -> None:
        async with stalled(server.url, paths):
            await asyncio.sleep(EVERY * AT_LAST)

    return situation


def writers(server: ServerProcess, count: int) -> Callable[[], Awaitable[None]]:
    """Writes under keys, all at once, whose replies are large and are not read; then once more."""

    async def write(key: int) -> None:
        body = b'{"title":"x"}'
        head = (
            f"PATCH /sessions/large-{key % 2} HTTP/1.1\r\nHost: localhost\r\nIdempotency-Key: {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        async with connection(server.url, takes=4096) as (reader, writer):
            writer.write(head.encode() + body)
            assert (await reader.readexactly(12))[9:] == b"200"
            await asyncio.sleep(EVERY * AT_LAST)

    async def situation() -> None:
        for _ in range(2):
            await asyncio.gather(*map(write, range(count)))

    return situation


def test_every_route_that_reads_is_asked() -> None:
    assert {route.path for route in ROUTES if route.method == "GET"} == ASKED.keys()


@pytest.mark.rounds(1)
async def test_readers_that_take_nothing_cost_little(database_url: str, rounds: int, report: Report) -> None:
    amount = USUAL if rounds == 1 else FULL
    async with open_store(database_url) as store:
        turn_id = await fill(store, amount)
    asked = [path.replace("TURN", turn_id) for paths in ASKED.values() for path in paths]
    with ServerProcess({"DB_URL": database_url, "ACCESS_LOG": "off"}) as server:
        await asyncio.to_thread(server.wait_until_listening)
        worst: dict[str, tuple[float, float]] = {}
        for path in asked:
            worst[path] = await measure(server, readers(server, [path] * READERS))
        worst["keys"] = await measure(server, writers(server, KEYED[amount]))
        worst["sum"] = await measure(server, readers(server, asked * READERS))
        print(
            *(f"{name}: {mib:.0f} MiB, {seconds:.3f} s" for name, (mib, seconds) in worst.items()), sep="\n"
        )
        assert "Traceback" not in server.log
    report(
        grown_mib=max(mib for mib, _ in worst.values()),
        sum_mib=worst["sum"][0],
        keys_mib=worst["keys"][0],
        delay_s=max(seconds for _, seconds in worst.values()),
    )
    assert {name: mib for name, (mib, _) in worst.items() if mib > MEMORY} == {}
    assert {name: seconds for name, (_, seconds) in worst.items() if seconds > DELAY} == {}
