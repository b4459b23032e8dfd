"""Turns: what a thousand of them at once take, and how much later a word comes because it is stored."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import aiohttp
import asyncpg

from tests.bench.databases import Databases
from tests.bench.measuring import print_table
from tests.bench.timed_model import delays
from tests.contract.obstacles import sqlite_path
from tests.server_process import ServerProcess, start_server

# For each second of the benchmark: 1000 turns, and 10,000 words of one turn, where it is run in full.
TURNS, DELTAS = 500, 5000
# Of each of many turns; and in the course of how many seconds they begin.
WORDS, PAUSE, RAMP = 40, 0.5, 5
PACES = {"as fast as the model can": 0.0, "500 deltas a second": 0.002}
ROUNDS = 2
SAMPLE_PAUSE = 0.5
PATIENCE = 300
RELAY = "a bare relay"
LONG_HEADER = (
    *("milliseconds", "median", "99 %", "added: median", "99 %", "deltas"),
    *("events", "their bytes", "rows written", "transactions"),
)
STREAM = "/agent/message/stream"
CONNECTIONS = """SELECT count(*) FROM pg_stat_activity
                  WHERE datname = current_database() AND application_name LIKE 'agent-runtime %'"""
STORED = "SELECT count(*), sum(length(data)) FROM turn_events"


async def run(databases: Databases, *, rounds: int, seconds: float) -> None:
    """Print a table of many turns at once, and one of a long turn for each pace."""
    await many_turns(databases, round(TURNS * seconds))
    for title, pause in PACES.items():
        await long_turns(databases, title, round(DELTAS * seconds), pause, min(rounds, ROUNDS))


class Reader(asyncio.Protocol):
    """Asks for a turn, and notes how late each of its words comes."""

    def __init__(self, host: str, session_id: str) -> None:
        self.delays: list[float] = []
        self.done = False
        self.ended = asyncio.get_running_loop().create_future()
        self._request = encode_request(host, session_id)
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        events, _, self._received = (self._received + data).rpartition(b"\n\n")
        self.delays += delays(events)
        self.done = b"event: done\n" in events
        # An error, as an event or as a reply; or the end of a stream that broke off.
        if (
            self.done
            or b"event: error\n" in events
            or b"/problem+json" in data
            or data.endswith(b"0\r\n\r\n")
        ):
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


def encode_request(host: str, session_id: str) -> bytes:
    """The request for a turn."""
    message = {"type": "user_message", "content": "What time is it?"}
    body = json.dumps({"session_id": session_id, "message": message})
    head = (f"POST {STREAM} HTTP/1.1", f"Host: {host}", "Content-Type: application/json")
    return "\r\n".join((*head, f"Content-Length: {len(body)}", "", body)).encode()


async def read_turn(url: str, session_id: str) -> Reader:
    """The reader of a new turn, when it has read it."""
    place = urlsplit(url)
    _, reader = await asyncio.get_running_loop().create_connection(
        lambda: Reader(place.netloc, session_id), place.hostname, place.port
    )
    await asyncio.wait_for(reader.ended, PATIENCE)
    return reader


@contextmanager
def running(kind: str, *arguments: object) -> Iterator[str]:
    """The URL of a model or a relay."""
    command = (sys.executable, "-m", "tests.bench.timed_model", kind, *map(str, arguments))
    with ServerProcess({}, command=command) as process:
        process.wait_until_listening()
        yield process.url


def start(database_url: str, model_url: str) -> ServerProcess:
    return start_server({"DB_URL": database_url, "LLM_URL": model_url, "ACCESS_LOG": "off"})


# Many turns at once


class Sample(NamedTuple):
    """What a server has in use."""

    resident: int
    connections: int


async def many_turns(databases: Databases, turns: int) -> None:
    """Print what so many turns take that run at the same time, each with a reader."""
    columns = {}
    for kind, url in (await databases.make()).items():
        with running("model", WORDS, PAUSE) as model_url, start(url, model_url) as server:
            await read_turn(server.url, "warm-up")
            columns[kind] = await measure_many(server, url, turns)
    title = f"{turns} turns at once, {WORDS} words each, {1 / PAUSE:g} words a second"
    rows = [(name, *(column[name] for column in columns.values())) for name in next(iter(columns.values()))]
    print_table(title, ("", *columns), rows)


async def measure_many(server: ServerProcess, database_url: str, turns: int) -> dict[str, str]:
    """The figures of one database, by their names."""
    idle = await take_sample(server.pid, database_url)
    counted, cpu, started = await read_counts(server.url), cpu_seconds(server.pid), time.monotonic()
    async with sampling(server.pid, database_url) as samples:
        readers = await asyncio.gather(*(read_later(server.url, number, turns) for number in range(turns)))
    elapsed = time.monotonic() - started
    used = cpu_seconds(server.pid) - cpu
    grown = {name: count - counted[name] for name, count in (await read_counts(server.url)).items()}
    late = [delay for reader in readers for delay in reader.delays]
    peak = max(sample.resident for sample in samples)
    return {
        "turns read to their end": f"{sum(reader.done for reader in readers):,}",
        "words heard": f"{len(late):,} of {turns * WORDS:,}",
        "seconds": f"{elapsed:.1f}",
        "processor time of the server": f"{used / elapsed:.0%}",
        "resident before": f"{idle.resident / 1e6:.1f} MB",
        "resident at the peak": f"{peak / 1e6:.1f} MB",
        "for each stream": f"{(peak - idle.resident) / turns / 1e3:.1f} kB",
        "connections before": str(idle.connections),
        "connections at the peak": str(max(sample.connections for sample in samples)),
        "writes a second": f"{grown['flush_commands_sum'] / elapsed:,.0f}",
        "rows a second": f"{grown['flush_rows_total'] / elapsed:,.0f}",
        "transactions a second": f"{grown['transactions_total'] / elapsed:,.0f}",
        "median delay of a word": f"{percentile(late, 50) * 1e3:,.1f} ms",
        "99th percentile": f"{percentile(late, 99) * 1e3:,.1f} ms",
    }


async def read_later(url: str, number: int, turns: int) -> Reader:
    """One of the turns, which begin one after the other."""
    await asyncio.sleep(number / turns * RAMP)
    return await read_turn(url, f"session-{number}")


@asynccontextmanager
async def sampling(pid: int, database_url: str) -> AsyncIterator[list[Sample]]:
    """Samples that are taken while this is open."""
    samples: list[Sample] = []

    async def sample() -> None:
        while True:
            samples.append(await take_sample(pid, database_url))
            await asyncio.sleep(SAMPLE_PAUSE)

    task = asyncio.create_task(sample())
    try:
        yield samples
    finally:
        task.cancel()


async def take_sample(pid: int, database_url: str) -> Sample:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return Sample(pages * os.sysconf("SC_PAGE_SIZE"), await count_connections(pid, database_url))


async def count_connections(pid: int, database_url: str) -> int:
    """Sessions of a Postgres, or open files of a database of SQLite."""
    if database_url.startswith("sqlite"):
        path = sqlite_path(database_url)
        return sum(_target(entry) == path for entry in Path(f"/proc/{pid}/fd").iterdir())
    return int((await ask(database_url, CONNECTIONS))[0])


def _target(entry: Path) -> str:
    try:
        return os.readlink(entry)
    except FileNotFoundError:
        return ""


def cpu_seconds(pid: int) -> float:
    """How long a process has run on a processor."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def read_counts(url: str) -> dict[str, float]:
    """The metrics of a server that have no labels, without our prefix."""
    async with aiohttp.ClientSession() as http, http.get(url + "/metrics") as reply:
        found = re.findall(r"^agent_runtime_(\w+) (\S+)$", await reply.text(), re.MULTILINE)
    return {name: float(value) for name, value in found}


async def ask(database_url: str, query: str) -> Sequence[int]:
    """The one row that a query gives."""
    if database_url.startswith("sqlite"):
        with closing(sqlite3.connect(f"file:{sqlite_path(database_url)}?mode=ro", uri=True)) as connection:
            return cast(Sequence[int], connection.execute(query).fetchone())
    other = await asyncpg.connect(database_url)
    try:
        return cast(Sequence[int], tuple(await other.fetchrow(query)))
    finally:
        await other.close()


def percentile(values: Sequence[float], part: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[part - 1]


# One long turn


class Long(NamedTuple):
    """How late the words of one turn came, and what was written for it."""

    delays: list[float]
    rows: float
    transactions: float


async def long_turns(databases: Databases, title: str, deltas: int, pause: float, rounds: int) -> None:
    """Print how late the words of a turn come through a bare relay and through us, taking turns."""
    urls = await databases.make()
    with ExitStack() as stack:
        model_url = stack.enter_context(running("model", deltas, pause))
        relay = stack.enter_context(running("relay", model_url))
        servers = {kind: stack.enter_context(start(url, model_url)) for kind, url in urls.items()}
        results: dict[str, list[Long]] = {name: [] for name in (RELAY, *servers)}
        for number in range(rounds):
            results[RELAY].append(Long((await read_turn(relay, RELAY)).delays, 0, 0))
            for kind, server in servers.items():
                results[kind].append(await measure_long(server.url, f"session-{number}"))
    stored = {RELAY: (0, 0)} | {kind: await ask(url, STORED) for kind, url in urls.items()}
    rows = [describe(name, turns, results[RELAY], stored[name]) for name, turns in results.items()]
    print_table(f"one turn of {deltas:,} deltas, {title}", LONG_HEADER, rows)


async def measure_long(url: str, session_id: str) -> Long:
    before = await read_counts(url)
    heard = await read_turn(url, session_id)
    after = await read_counts(url)
    rows, transactions = (after[name] - before[name] for name in ("flush_rows_total", "transactions_total"))
    return Long(heard.delays, rows, transactions)


def describe(name: str, turns: list[Long], floor: list[Long], stored: Sequence[int]) -> Sequence[str]:
    """A line of the table; what is counted is counted for each turn."""
    late, least = ([delay for turn in many for delay in turn.delays] for many in (turns, floor))
    return (
        name,
        *(f"{percentile(late, part) * 1e3:,.2f}" for part in (50, 99)),
        *(f"{(percentile(late, part) - percentile(least, part)) * 1e3:,.2f}" for part in (50, 99)),
        f"{len(late) / len(turns):,.0f}",
        *(f"{count / len(turns):,.0f}" for count in stored),
        f"{statistics.mean(turn.rows for turn in turns):,.0f}",
        f"{statistics.mean(turn.transactions for turn in turns):,.0f}",
    )
