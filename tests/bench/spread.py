"""Appends that are spread over many sessions: how many a second, and how much is written for each.

Over few sessions the messages of a batch share pages; over many each one, its index entry and its head may
stand on a page of its own. 5,000 sessions are the main case.
"""

from __future__ import annotations

import asyncio
import random
import time
from itertools import cycle
from pathlib import Path

import psycopg

from runtime.store.store import open_store
from tests.bench.databases import Databases
from tests.bench.filled import fill
from tests.bench.report import Comparison, Report
from tests.bench.worker import MESSAGE

SESSIONS = (50, 5_000, 100_000)
CALLERS = 256


async def run(databases: Databases, *, rounds: int, seconds: float, quick: bool) -> Report:
    """Two tables for each number of sessions: the rates, and the bytes."""
    report = Report()
    for sessions in SESSIONS[:2] if quick else SESSIONS:
        urls = await databases.make()
        found = {kind: await measure(url, sessions, rounds, seconds) for kind, url in urls.items()}
        title = f"durable appends over {sessions:,} sessions, {CALLERS} callers"
        rates = {kind: [rate for rate, _ in results] for kind, results in found.items()}
        sizes = {kind: [size for _, size in results] for kind, results in found.items()}
        report.comparisons.append(Comparison(title, "appends/s", rates))
        report.comparisons.append(Comparison(f"{title}, written for each", "bytes", sizes))
    report.notes.append("written: by the process to the disk on SQLite, to the WAL on Postgres")
    return report


async def measure(url: str, sessions: int, rounds: int, seconds: float) -> list[tuple[float, float]]:
    """Appends a second, and bytes written for each, in each round. A first one warms up."""
    await fill(url, sessions, 1)
    names = [f"session-{number}" for number in range(1, sessions + 1)]
    random.Random(1).shuffle(names)
    places, results = cycle(names), []
    async with open_store(url) as store:
        for _ in range(rounds + 1):
            before, began = bytes_written(url), time.perf_counter()

            async def call(deadline: float) -> int:
                appended = 0
                while time.perf_counter() < deadline:
                    await store.append_messages(next(places), [MESSAGE])
                    appended += 1
                return appended

            count = sum(await asyncio.gather(*(call(began + seconds) for _ in range(CALLERS))))
            took = time.perf_counter() - began
            results.append((count / took, (bytes_written(url) - before) / count))
    return results[1:]


def bytes_written(url: str) -> int:
    """How much has been written so far."""
    if url.startswith("sqlite"):
        lines = Path("/proc/self/io").read_text().splitlines()
        return int(dict(line.split(": ") for line in lines)["write_bytes"])
    with psycopg.connect(url, autocommit=True) as connection:
        [row] = connection.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").fetchall()
        return int(row[0])
