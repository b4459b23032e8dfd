"""What a server keeps resident: when idle, with its cache full, and for each open stream of events.

Each figure is of a server of its own, since memory that was used once is kept. A MB is a million bytes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from runtime.api.fd_limits import raise_limit
from runtime.config import Settings
from tests.bench.databases import Databases
from tests.bench.filled import fill
from tests.bench.load import encode_request, send
from tests.bench.measuring import Measure, take_turns
from tests.bench.report import Comparison, Goal, Report
from tests.bench.worker import MESSAGE
from tests.process.http_client import HttpClient, http_client
from tests.support.server_process import ServerProcess, start_server

CACHE_BYTES = Settings().cache_bytes
IDLE_MB = 60.0
FULL_MB = IDLE_MB + CACHE_BYTES / 1e6 * 1.2
STREAM_KB = 25.0
# Of the cache: the next entry may not fit.
FULL_SHARE = 0.99
STREAMS, QUICK_STREAMS = 1_000, 300
SESSIONS = 50
# More than fill the cache: sessions of as many messages as it keeps of each, and sessions of one.
LONG_SESSIONS, LONG, SHORT_SESSIONS = 500, 200, 60_000
CONNECTIONS = 16
# Seconds between two looks, and how long a server may take to come to rest.
LOOK_SECONDS, PATIENCE = 0.1, 60.0
ROUNDS = 3

# One figure of a server that has answered once.
Reading = Callable[[ServerProcess, HttpClient], Awaitable[float]]


async def run(databases: Databases, *, rounds: int, seconds: float, quick: bool) -> Report:
    """A table for each state, with a row for each database."""
    streams = QUICK_STREAMS if quick else STREAMS
    rounds = 1 if quick else min(rounds, ROUNDS)
    report = await compare("resident, idle", "MB", databases, rested, rounds, IDLE_MB)
    full = f"resident, {CACHE_BYTES / 1e6:.0f} MB of cache full of"
    report.add(await compare(f"{full} long sessions", "MB", databases, filled_by_writes, rounds, FULL_MB))
    if not quick:
        short = f"{full} sessions of one message"
        # Once: it takes long.
        report.add(await compare(short, "MB", databases, filled_by_reads, 1, FULL_MB, SHORT_SESSIONS))
    each = f"for each of {streams:,} streams of events"
    report.add(await compare(each, "KB", databases, partial(per_stream, streams), rounds, STREAM_KB))
    return report


async def compare(
    title: str,
    unit: str,
    databases: Databases,
    reading: Reading,
    rounds: int,
    wanted: float,
    sessions: int = SESSIONS,
) -> Report:
    """What a server over each database reads, where there are so many sessions of one message."""
    measures: dict[str, Measure] = {}
    for kind, url in (await databases.make()).items():
        await fill(url, sessions, 1)
        measures[kind] = partial(measure, url, reading)
    table = Comparison(title, unit, await take_turns(measures, rounds))
    goals = [Goal(f"{title}, {kind} ({unit})", table.median(kind), wanted, at_most=True) for kind in measures]
    return Report([table], goals)


async def measure(url: str, reading: Reading) -> float:
    """The reading of a new server."""
    with start_server({"DB_URL": url, "ACCESS_LOG": "off"}) as server:
        async with http_client(server.url) as client:
            await client.get("/sessions", limit=1)
            figure = await reading(server, client)
        server.stop()
    return figure


async def rested(server: ServerProcess, _: HttpClient) -> float:
    """MB in memory, as soon as they stay the same."""
    async with asyncio.timeout(PATIENCE):
        before = 0.0
        while (now := resident(server.pid)) != before:
            before = now
            await asyncio.sleep(LOOK_SECONDS)
    return now


def resident(pid: int) -> float:
    """VmRSS, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    kibibytes = int(status.partition("VmRSS:")[2].split()[0])
    return kibibytes * 1024 / 1e6


async def filled_by_writes(server: ServerProcess, client: HttpClient) -> float:
    """MB in memory when messages of the usual size, just written, have filled the cache."""
    body = json.dumps({"messages": [MESSAGE] * LONG}).encode()
    host = urlsplit(server.url).netloc
    return await filled(server, client, [encode_request("POST", host, "/sessions", body)] * LONG_SESSIONS)


async def filled_by_reads(server: ServerProcess, client: HttpClient) -> float:
    """The same when short sessions that were looked at have."""
    host = urlsplit(server.url).netloc
    paths = (f"/sessions/session-{number}/messages?last=50" for number in range(1, SHORT_SESSIONS + 1))
    return await filled(server, client, (encode_request("GET", host, path) for path in paths))


async def filled(server: ServerProcess, client: HttpClient, requests: Iterable[bytes]) -> float:
    """MB in memory after requests that fill the cache."""
    await send(server.url, CONNECTIONS, iter(requests))
    assert await client.read_metric("cache_bytes") > FULL_SHARE * CACHE_BYTES
    return await rested(server, client)


async def per_stream(streams: int, server: ServerProcess, client: HttpClient) -> float:
    """KB that memory grows by for each stream, where so many are opened on some sessions."""
    raise_limit()
    async with AsyncExitStack() as stack:
        # The first on each session brings it into memory, which a stream does not cost.
        for number in range(SESSIONS):
            await stack.enter_async_context(stream(server.url, number))
        before = await rested(server, client)
        for number in range(streams):
            await stack.enter_async_context(stream(server.url, number % SESSIONS))
        assert await client.read_metric("sse_streams") == SESSIONS + streams
        return (await rested(server, client) - before) / streams * 1e3


@asynccontextmanager
async def stream(url: str, number: int) -> AsyncIterator[None]:
    """The events of a session, from its end on: open, and answered."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    path = f"/sessions/session-{number + 1}/events?after=1"
    writer.write(encode_request("GET", place.netloc, path))
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        yield
    finally:
        writer.close()
