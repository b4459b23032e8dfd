"""Durable appends in-process: beside the peers and the bare driver, how few commits, how late a lone one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial
from itertools import cycle, islice

from runtime.metrics import Metrics
from runtime.store.store import Store, open_store
from tests.bench.databases import Databases
from tests.bench.limits import ONE_ROW, measure_one_row
from tests.bench.measuring import take_turns
from tests.bench.ours import make_sessions
from tests.bench.own_tables import appends_a_second
from tests.bench.peers.environment import UNDOCUMENTED
from tests.bench.report import Comparison, Goal, Report
from tests.bench.rivals import Rivals, find_python, without_failed
from tests.bench.worker import MESSAGE, SESSIONS, measure
from tests.bench.workers import Worker, open_worker

KINDS = ("sqlite", "postgres")
CALLERS = (1, 32, 256)
OURS, DRIVER = "agent-runtime", f"the driver, {ONE_ROW}"
# What no store on these tables can pass: nothing is checked, no caller is woken, nothing is kept in memory.
LIMIT = "the driver on our tables, as many rows a commit as callers"
# How many times the fastest peer, by callers.
WANTED = {"sqlite": {32: 8, 256: 15}, "postgres": {32: 12, 256: 20}}
# Transactions for so many messages by so many callers.
MESSAGES, MANY = 1_000, 256
TRANSACTIONS = {"committed": 5, "buffered": 1}
# Milliseconds that a lone append may take longer than the driver's commit of one row.
ADDED = 0.5


async def run(databases: Databases, *, rounds: int, seconds: float, quick: bool) -> Report:
    """The rates beside the peers, then what is counted and timed in this process."""
    report = Report()
    python = await find_python(report.notes)
    for kind in KINDS:
        async with AsyncExitStack() as stack:
            rivals = Rivals(report.notes)
            if python:
                await rivals.open(stack, databases, kind, python)
            await compare_rates(report, databases, kind, rivals, rounds, seconds, quick)
    for kind in KINDS:
        await look_inside(report, databases, kind, rounds, seconds)
    return report


async def compare_rates(
    report: Report,
    databases: Databases,
    kind: str,
    rivals: Rivals,
    rounds: int,
    seconds: float,
    quick: bool,
) -> None:
    """A table for each number of callers. Where one is alone, the quick form leaves the peers out."""
    driver = (await databases.make_empty())[kind]
    async with open_worker("tests.bench.ours", (await databases.make())[kind]) as ours:
        for callers in CALLERS:
            measures = {
                OURS: partial(rate, ours, callers, seconds),
                **({} if quick and callers == 1 else rivals.measures(callers, seconds)),
                DRIVER: partial(commits_of_one_row, kind, driver, seconds),
                LIMIT: partial(most_on_our_tables, databases, kind, callers, seconds),
            }
            results = without_failed(await take_turns(measures, rounds))
            title = f"durable appends, {callers} caller{'s' * (callers > 1)}, {kind}"
            comparison = Comparison(title, "appends/s", results, OURS)
            report.comparisons.append(comparison)
            report.goals.extend(goals(comparison, WANTED[kind].get(callers)))


def goals(comparison: Comparison, wanted: float | None) -> Iterator[Goal]:
    """How many times the fastest peer, used as its documentation says, where that is wanted."""
    peers = comparison.results.keys() - {OURS, DRIVER, LIMIT} - UNDOCUMENTED
    if wanted and peers:
        fastest = max(peers, key=comparison.median)
        yield Goal(f"{comparison.title}, times {fastest}", comparison.ratio(OURS, fastest), wanted)


async def rate(worker: Worker, callers: int, seconds: float) -> float:
    return (await worker.measure(callers, seconds))["rate"]


async def commits_of_one_row(kind: str, url: str, seconds: float) -> float:
    """One connection: what more callers would share."""
    return (await measure_one_row(kind, url, seconds))["rate"]


async def most_on_our_tables(databases: Databases, kind: str, callers: int, seconds: float) -> float:
    """One connection, in batches as large as ours can be."""
    return await appends_a_second(kind, (await databases.make())[kind], callers, seconds)


# In this process


async def look_inside(report: Report, databases: Databases, kind: str, rounds: int, seconds: float) -> None:
    """Transactions, and the latency of a lone append, on one store."""
    metrics, driver = Metrics(), (await databases.make_empty())[kind]
    async with open_store((await databases.make())[kind], metrics=metrics) as store:
        await make_sessions(store)
        await count_transactions(report, kind, store, metrics, rounds)
        await compare_lone(report, kind, store, driver, rounds, seconds)


async def count_transactions(report: Report, kind: str, store: Store, metrics: Metrics, rounds: int) -> None:
    """How many it takes to store what many callers were told is taken, in either durability."""
    measures = {how: partial(transactions, store, metrics, how) for how in TRANSACTIONS}
    title = f"transactions for {MESSAGES:,} messages, {MANY} callers, {kind}"
    comparison = Comparison(title, "transactions", await take_turns(measures, rounds))
    report.comparisons.append(comparison)
    for how, wanted in TRANSACTIONS.items():
        report.goals.append(Goal(f"{title}, {how}", comparison.median(how), wanted, at_most=True))


async def transactions(store: Store, metrics: Metrics, durability: str) -> float:
    """Counted until all is stored: reading a session waits for what was accepted for it (W6)."""
    before = count_commits(metrics)
    sessions = islice(cycle(SESSIONS), MESSAGES)

    async def call() -> None:
        for session_id in sessions:
            await store.append_messages(session_id, [MESSAGE], durability=durability)  # type: ignore[call-overload]

    await asyncio.gather(*(call() for _ in range(MANY)))
    await asyncio.gather(*(store.list_messages(session_id, last=1) for session_id in SESSIONS))
    return count_commits(metrics) - before


def count_commits(metrics: Metrics) -> float:
    return metrics.registry.get_sample_value("agent_runtime_transactions_total") or 0.0


async def compare_lone(
    report: Report, kind: str, store: Store, driver: str, rounds: int, seconds: float
) -> None:
    """One caller alone, beside the driver's commit of one row."""
    measures = {
        OURS: partial(lone_append, store, seconds),
        DRIVER: partial(lone_row, kind, driver, seconds),
    }
    title = f"a lone durable append, {kind}"
    comparison = Comparison(title, "ms", await take_turns(measures, rounds), DRIVER)
    report.comparisons.append(comparison)
    added = comparison.median(OURS) - comparison.median(DRIVER)
    report.goals.append(Goal(f"{title}, ms added to {ONE_ROW}", added, ADDED, at_most=True))


async def lone_append(store: Store, seconds: float) -> float:
    """Milliseconds at the median."""
    found = await measure(lambda session_id: store.append_messages(session_id, [MESSAGE]), 1, seconds)
    return found["median"] * 1e3


async def lone_row(kind: str, url: str, seconds: float) -> float:
    """The same of the driver."""
    return (await measure_one_row(kind, url, seconds))["median"] * 1e3
