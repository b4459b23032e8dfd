"""Two servers on one Postgres beside one: durable appends over HTTP, and what they cost the processors.

Each server has a load generator of its own. Those take their share of the same processors, which clients on
other machines would not, and so does Postgres.
"""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

import asyncpg
import psutil

from tests.bench.databases import Databases
from tests.bench.measuring import Measure, take_turns
from tests.bench.over_http import CONNECTIONS, PATHS, load
from tests.bench.report import Comparison, Goal, Report
from tests.bench.worker import SESSIONS
from tests.process.http_client import http_client
from tests.support.server_process import ServerProcess, start_server

WANTED = 1.5
ONE = "one server"
SAME = "two servers, both for all sessions"
APART = "two servers, each for half of them"
HALF = len(PATHS) // 2


async def run(databases: Databases, *, rounds: int, seconds: float, quick: bool) -> Report:
    """A table of rates, and tables of the processor time that an append takes."""
    url = (await databases.make())["postgres"]
    with ExitStack() as stack:
        env = {"DB_URL": url, "ACCESS_LOG": "off"}
        servers = [stack.enter_context(start_server(env)) for _ in range(2)]
        await make_sessions(servers[0].url)
        usage = Usage(await find_postmaster(url), servers)
        await usage.note_start(servers[0])
        measures: dict[str, Measure] = {
            ONE: partial(usage.around, ONE, servers[:1], [PATHS], seconds),
            SAME: partial(usage.around, SAME, servers, [PATHS, PATHS], seconds),
            APART: partial(usage.around, APART, servers, [PATHS[:HALF], PATHS[HALF:]], seconds),
        }
        results = await take_turns(measures, rounds)
    title = f"durable appends over HTTP on one Postgres, {CONNECTIONS} connections to each server"
    rates = Comparison(title, "replies/s", results, ONE)
    goals = [Goal(f"{name}, beside one", rates.ratio(name), WANTED) for name in (SAME, APART)]
    tables = usage.tables()
    notes = [ceiling(name, table) for name, table in tables.items()]
    return Report([rates, *tables.values()], goals, notes)


async def make_sessions(url: str) -> None:
    async with http_client(url) as client:
        for session_id in SESSIONS:
            await client.post("/sessions", {"session_id": session_id})


async def find_postmaster(url: str) -> psutil.Process:
    """The process that all others of a Postgres on this machine come from."""
    connection = await asyncpg.connect(url)
    postmaster = psutil.Process(await connection.fetchval("SELECT pg_backend_pid()")).parent()
    await connection.close()
    assert postmaster is not None
    return postmaster


class Usage:
    """Processor time an append, in microseconds, by what was measured and by whose time it is."""

    def __init__(self, postmaster: psutil.Process, servers: Sequence[ServerProcess]) -> None:
        self._postmaster = postmaster
        self._servers = [psutil.Process(server.pid) for server in servers]
        self._start = 0.0
        self._figures: dict[str, dict[str, list[float]]] = {}

    async def note_start(self, server: ServerProcess) -> None:
        """Find out what the start of a load generator takes, which no append is charged with."""
        before = self._spent()["load generators"]
        await load("POST", server.url, 0.0, PATHS)
        self._start = self._spent()["load generators"] - before

    async def around(
        self, name: str, servers: Sequence[ServerProcess], paths: Sequence[Sequence[str]], seconds: float
    ) -> float:
        """Replies a second of servers that are asked at the same time, each for paths of its own."""
        before = self._spent()
        loads = [load("POST", server.url, seconds, own) for server, own in zip(servers, paths, strict=True)]
        rate = sum(await asyncio.gather(*loads))
        spent = {who: time - before[who] for who, time in self._spent().items()}
        spent["load generators"] -= self._start * len(servers)
        for who, time in spent.items():
            figures = self._figures.setdefault(name, {}).setdefault(who, [])
            figures.append(time / (rate * seconds) * 1e6)
        return rate

    def _spent(self) -> dict[str, float]:
        """Seconds of processor time so far. Load generators are all that this process has seen to the end."""
        ended = self._postmaster.cpu_times()
        own = [self._postmaster, *self._postmaster.children(recursive=True)]
        loads = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            "servers": sum(map(seconds_of, self._servers)),
            "Postgres": sum(map(seconds_of, own)) + ended.children_user + ended.children_system,
            "load generators": loads.ru_utime + loads.ru_stime,
        }

    def tables(self) -> dict[str, Comparison]:
        """One for each that was measured."""
        return {
            name: Comparison(f"processor time an append, {name}", "µs", figures)
            for name, figures in self._figures.items()
        }


def seconds_of(process: psutil.Process) -> float:
    """Of processor time."""
    times = process.cpu_times()
    return float(times.user + times.system)


def ceiling(name: str, table: Comparison) -> str:
    """How many appends these processors have the time for."""
    spent = sum(map(table.median, table.results))
    cores = os.cpu_count() or 1
    most = f"{cores} cores have time for {cores * 1e6 / spent:,.0f} a second"
    return f"{name}: an append takes {spent:.0f} µs of processor time in all, so {most}"
