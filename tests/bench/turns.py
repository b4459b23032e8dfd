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
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import aiohttp
import asyncpg

from tests.bench.databases import Databases
from tests.bench.report import Comparison, Report
from tests.bench.timed_model import delays
from tests.support.database_locks import sqlite_path
from tests.support.server_process import ServerProcess, start_server

# For each second of the benchmark: 1000 turns, and 10,000 words of one turn, where it is run in full.
TURNS, DELTAS = 500, 5000
# Of each of many turns; and in the course of how many seconds they begin.
WORDS, PAUSE, RAMP = 40, 0.5, 5
QUICK_WORDS, QUICK_DELTAS = 6, 1000
PACES = {"as fast as the model can": 0.0, "500 deltas a second": 0.002}
ROUNDS = 2
SAMPLE_PAUSE = 0.5
PATIENCE = 300
RELAY = "a bare relay"
STREAM = "/agent/message/stream"
CONNECTIONS = """SELECT count(*) FROM pg_stat_activity
                  WHERE datname = current_database() AND application_name LIKE 'agent-runtime %'"""
STORED = "SELECT count(*), coalesce(sum(length(data)), 0) FROM turn_events"


# Figures by their units and names.
Figures = dict[tuple[str, str], float]
DELAYS = {("ms of delay", "median"): 50, ("ms of delay", "99 %"): 99}


async def run(databases: Databases, *, rounds: int, seconds: float, quick: bool) -> Report:
    """Tables of many turns at once, and of a long turn for each pace."""
    many = await many_turns(databases, round(TURNS * seconds), QUICK_WORDS if quick else WORDS)
    report = Report(many)
    for title, pause in PACES.items():
        deltas = QUICK_DELTAS if quick else round(DELTAS * seconds)
        report.comparisons.extend(await long_turns(databases, title, deltas, pause, min(rounds, ROUNDS)))
    return report


def tables(title: str, found: Mapping[str, Sequence[Figures]]) -> list[Comparison]:
    """One table for each unit; what was found has the figures of each round."""
    by_unit: dict[str, dict[str, list[float]]] = {}
    for name, rounds in found.items():
        for unit, what in rounds[0]:
            by_unit.setdefault(unit, {})[f"{what}, {name}"] = [figures[unit, what] for figures in rounds]
    return [Comparison(f"{title}: {unit}", unit, results) for unit, results in by_unit.items()]


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


async def many_turns(databases: Databases, turns: int, words: int) -> list[Comparison]:
    """What so many turns take that run at the same time, each with a reader."""
    found = {}
    for kind, url in (await databases.make()).items():
        with running("model", words, PAUSE) as model_url, start(url, model_url) as server:
            await read_turn(server.url, "warm-up")
            found[kind] = [await measure_many(server, url, turns)]
    return tables(f"{turns} turns at once, {words} words each, {1 / PAUSE:g} words a second", found)


async def measure_many(server: ServerProcess, database_url: str, turns: int) -> Figures:
    """The figures of one database."""
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
        ("turns", "read to their end"): sum(reader.done for reader in readers),
        ("words", "heard"): len(late),
        ("seconds", "in all"): elapsed,
        ("% of a core", "the server"): used / elapsed * 100,
        ("MB resident", "before"): idle.resident / 1e6,
        ("MB resident", "at the peak"): peak / 1e6,
        ("kB", "for each stream"): (peak - idle.resident) / turns / 1e3,
        ("connections", "before"): idle.connections,
        ("connections", "at the peak"): max(sample.connections for sample in samples),
        ("a second", "writes"): grown["flush_commands_sum"] / elapsed,
        ("a second", "rows"): grown["flush_rows_total"] / elapsed,
        ("a second", "transactions"): grown["transactions_total"] / elapsed,
        **{name: percentile(late, part) * 1e3 for name, part in DELAYS.items()},
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


async def long_turns(
    databases: Databases, title: str, deltas: int, pause: float, rounds: int
) -> list[Comparison]:
    """How late the words of a turn come through a bare relay and through us, taking turns."""
    urls = await databases.make()
    with ExitStack() as stack:
        model_url = stack.enter_context(running("model", deltas, pause))
        relay = stack.enter_context(running("relay", model_url))
        servers = {kind: stack.enter_context(start(url, model_url)) for kind, url in urls.items()}
        found: dict[str, list[Figures]] = {name: [] for name in (RELAY, *servers)}
        for number in range(rounds):
            found[RELAY].append(delay_figures((await read_turn(relay, RELAY)).delays))
            for kind, server in servers.items():
                found[kind].append(await measure_long(server.url, urls[kind], f"session-{number}"))
    for kind in servers:
        for ours, floor in zip(found[kind], found[RELAY], strict=True):
            ours |= {("ms added", what): ours[unit, what] - floor[unit, what] for unit, what in DELAYS}
    return tables(f"one turn of {deltas:,} deltas, {title}", found)


def delay_figures(late: Sequence[float]) -> Figures:
    """How late the words came."""
    return {
        **{name: percentile(late, part) * 1e3 for name, part in DELAYS.items()},
        ("deltas", "heard"): len(late),
    }


async def measure_long(url: str, database_url: str, session_id: str) -> Figures:
    """One turn: how late its words came, and what was written for it."""
    before, stored_before = await read_counts(url), await ask(database_url, STORED)
    heard = await read_turn(url, session_id)
    after, (events, size) = await read_counts(url), await ask(database_url, STORED)
    return {
        **delay_figures(heard.delays),
        ("stored for a turn", "events"): events - stored_before[0],
        ("bytes stored for a turn", "events"): size - stored_before[1],
        ("stored for a turn", "rows"): after["flush_rows_total"] - before["flush_rows_total"],
        ("stored for a turn", "transactions"): after["transactions_total"] - before["transactions_total"],
    }
