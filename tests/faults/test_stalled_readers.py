"""Five hundred readers of streams: some stop reading, the others come and go at random, while writers append.

The stalled are cut off, the restless miss nothing and hear nothing twice, the patient are not slowed.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from asyncio import StreamReader
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest

from tests.faults.conftest import Report
from tests.faults.paced_server import paced
from tests.faults.raw_http import connection, files_of, memory_of
from tests.faults.restarted_server import MortalServer, mortal_server
from tests.process.http_client import HttpClient, http_client

STALLED, RESTLESS, PATIENT = 60, 420, 20
SESSIONS = 20
# Messages of each session without the stalled ones and with them, and seconds between two of them.
MESSAGES, EVERY = 6, 0.3
# What a stalled reader is sent: more than the sockets in between can hold, in 100 messages at most.
HEAVY, SIZE = 60, 60_000
# Seconds after which who has stalled is cut off, and by when all is over.
PATIENCE, SLACK = 2.0, 240.0
# What the server's log says of each.
CUT_OFF = "has stalled"
# How much later the patient may hear: in times and, on a machine with other things to do, in seconds. Whoever
# had to wait for the stalled would wait for as long as these are borne with.
TIMES, ANYWAY = 6.0, 1.9
# MiB: what the stalled are sent is held until they are cut off, and is there for the next ones then.
MEMORY = 400


@asynccontextmanager
async def following(
    url: str, session: str, after: int, takes: int | None = None
) -> AsyncIterator[StreamReader]:
    """A stream, from behind a message. HTTP/1.0 has it as it is, in no chunks."""
    async with connection(url, takes=takes) as (reader, writer):
        ask = f"GET /sessions/{session}/events HTTP/1.0\r\nHost: localhost\r\nLast-Event-ID: {after}\r\n\r\n"
        writer.write(ask.encode())
        yield reader


async def hear(reader: StreamReader) -> AsyncIterator[tuple[int, str]]:
    """The number and the content of each message, until the stream ends."""
    await reader.readuntil(b"\r\n\r\n")
    while True:
        try:
            event = (await reader.readuntil(b"\n\n")).decode()
        except asyncio.IncompleteReadError:
            return
        fields = dict(line.split(": ", 1) for line in event.split("\n") if ": " in line)
        if fields.get("event") == "message":
            yield int(fields["id"]), json.loads(fields["data"])["content"]


async def listen(url: str, session: str, total: int, chance: Random | None) -> list[float]:
    """Hear every message once and in order; with `chance` in stays of random length, some of them idle.

    Returns how late each was, in seconds.
    """
    heard, delays = 0, list[float]()
    while heard < total:
        stay = chance.randint(0, total) if chance else total
        async with following(url, session, heard) as reader:
            if chance:
                await asyncio.sleep(chance.uniform(0, 0.3))
            if not stay:
                continue
            async for seq, content in hear(reader):
                assert seq == heard + 1, f"heard {seq} of {session} where {heard + 1} was next"
                heard = seq
                delays.append(time.monotonic() - float(content))
                if heard >= total or (chance and len(delays) % stay == 0):
                    break
    return delays


async def write(client: HttpClient, session: str, count: int) -> None:
    """Messages that say when they were sent."""
    for _ in range(count):
        await client.post(f"/sessions/{session}/messages", {"role": "user", "content": str(time.monotonic())})
        await asyncio.sleep(EVERY)


async def stall(url: str, cut_off: asyncio.Event) -> None:
    """Take nothing until the server has cut the stream off; it does so before all is sent."""
    async with following(url, "heavy", 0, takes=4096) as reader:
        await cut_off.wait()
        received = 0
        try:
            while data := await reader.read(65536):
                received += len(data)
        except ConnectionError:
            pass
        assert received < HEAVY * SIZE


async def tell_when_cut_off(server: MortalServer, stalled: int, cut_off: asyncio.Event) -> None:
    """Set it once the server has said of so many more that it has cut them off."""
    before = server.process.log.count(CUT_OFF)
    while server.process.log.count(CUT_OFF) < before + stalled:  # noqa: ASYNC110 - a log has no event
        await asyncio.sleep(0.05)
    cut_off.set()


async def measure(
    server: MortalServer, client: HttpClient, names: list[str], chance: Random, stalled: int
) -> list[float]:
    """How late the patient have heard, in order, with so many stalled ones beside them."""
    for name in names:
        await client.post("/sessions", {"session_id": name})
    cut_off = asyncio.Event()
    async with asyncio.timeout(SLACK), asyncio.TaskGroup() as group:
        group.create_task(tell_when_cut_off(server, stalled, cut_off))
        for _ in range(stalled):
            group.create_task(stall(client.url, cut_off))
        for number in range(RESTLESS):
            each = Random(chance.random())
            group.create_task(listen(client.url, names[number % SESSIONS], MESSAGES, each))
        patient = [
            group.create_task(listen(client.url, names[number % SESSIONS], MESSAGES, None))
            for number in range(PATIENT)
        ]
        for name in names:
            group.create_task(write(client, name, MESSAGES))
    return sorted(delay for task in patient for delay in task.result())


@pytest.mark.rounds(1)
async def test_stalled_readers_are_cut_off_and_slow_nobody(
    database_url: str, rounds: int, seed: int, report: Report
) -> None:
    chance = Random(seed)
    env = {"DB_URL": database_url}
    async with (
        mortal_server(env, command=paced(heartbeat=PATIENCE, patience=PATIENCE)) as server,
        http_client(server.target.url) as client,
    ):
        pid = server.process.pid
        await client.post("/sessions", {"session_id": "heavy"})
        for _ in range(HEAVY):
            await client.post("/sessions/heavy/messages", {"role": "user", "content": "x" * SIZE})
        memory = memory_of(pid)
        for n in range(rounds):
            files = files_of(pid)
            calm = await measure(server, client, [f"calm-{n}-{m}" for m in range(SESSIONS)], chance, 0)
            with_stalled = await measure(
                server, client, [f"stalled-{n}-{m}" for m in range(SESSIONS)], chance, STALLED
            )
            async with asyncio.timeout(SLACK):
                while files_of(pid) > files + 24:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.01)
        grown = memory_of(pid) - memory
        # Who goes away from a quiet session is missed at the next heartbeat.
        async with asyncio.timeout(SLACK):
            while await client.read_metric("sse_streams"):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)
        assert server.process.log.count(CUT_OFF) == rounds * STALLED
        assert await server.stop() == 0
        assert "Traceback" not in server.process.log
    report(
        calm_median_s=statistics.median(calm),
        calm_99_s=calm[len(calm) * 99 // 100],
        median_s=statistics.median(with_stalled),
        late_99_s=with_stalled[len(with_stalled) * 99 // 100],
        grown_mib=grown,
    )
    for part in (0.5, 0.99):
        before, after = (delays[int(len(delays) * part)] for delays in (calm, with_stalled))
        assert after < max(TIMES * before, ANYWAY), f"{part:g}: {before:.3f} s, and then {after:.3f} s"
    assert grown < MEMORY
