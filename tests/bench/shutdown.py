"""From SIGTERM to the exit of a server with 10,000 writes that wait.

A server that can write has never so many: it flushes accepted writes when 2,000 wait, and stores them faster
than they come over HTTP. So the database is held up, as another program may do, while they are accepted, and
let go at the moment of the signal. On SQLite the writer then waits between two tries, up to some tenths of a
second, which counts.
"""

from __future__ import annotations

import asyncio
import signal
import time
from functools import partial
from itertools import cycle, islice
from urllib.parse import urlsplit

from runtime.store.store import open_store
from tests.bench.databases import Databases
from tests.bench.load import encode_request, send
from tests.bench.measuring import Measure, take_turns
from tests.bench.ours import make_sessions
from tests.bench.over_http import CONNECTIONS, PATHS
from tests.bench.report import Comparison, Goal, Report
from tests.bench.worker import SESSIONS
from tests.process.http_client import http_client
from tests.support.database_locks import blocked
from tests.support.server_process import ServerProcess, start_server

WRITES = 10_000
WANTED_SECONDS = 1.0
BUFFERED = {"DURABILITY": "buffered", "FLUSH_INTERVAL": "60", "ACCESS_LOG": "off"}


async def run(databases: Databases, *, rounds: int, seconds: float, quick: bool) -> Report:
    """A table with a row for each database."""
    urls = await databases.make()
    for url in urls.values():
        async with open_store(url) as store:
            await make_sessions(store)
    measures: dict[str, Measure] = {kind: partial(stop_with_writes, url) for kind, url in urls.items()}
    title = f"from SIGTERM to the exit, {WRITES:,} writes pending"
    table = Comparison(title, "s", await take_turns(measures, rounds))
    goals = [Goal(f"{title}, {kind} (s)", table.median(kind), WANTED_SECONDS, at_most=True) for kind in urls]
    return Report([table], goals, ["after each round every accepted write was found stored"])


async def stop_with_writes(url: str) -> float:
    """Seconds that a new server takes to store what waits, and to end."""
    before = await count_messages(url)
    with start_server({"DB_URL": url, **BUFFERED}) as server:
        async with blocked(url):
            await accept_writes(server)
            started = time.perf_counter()
            server.send(signal.SIGTERM)
        status = await asyncio.to_thread(server.wait)
        elapsed = time.perf_counter() - started
    assert status == 0, server.log
    assert await count_messages(url) == before + WRITES, "an accepted write is not stored"
    return elapsed


async def accept_writes(server: ServerProcess) -> None:
    """Have the server accept the writes; they all wait still at the end."""
    host = urlsplit(server.url).netloc
    requests = cycle([encode_request("POST", host, path) for path in PATHS])
    await send(server.url, CONNECTIONS, islice(requests, WRITES))
    async with http_client(server.url) as client:
        assert await client.read_metric("pending_writes") == WRITES


async def count_messages(url: str) -> int:
    """The messages of all sessions, in a database that no server has open."""
    async with open_store(url) as store:
        return sum([(await store.get_session(session_id)).message_count for session_id in SESSIONS])
