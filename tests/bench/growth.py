"""What has to cost the same whatever there is already: appends, last pages, lists, starting.

Where the store is asked in-process it keeps nothing in memory, so that the databases are what is compared.
Their caches are warm.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import NamedTuple

from runtime.config import Settings
from runtime.store.store import Store, open_store
from tests.bench.databases import Databases
from tests.bench.filled import Filled, fill
from tests.bench.measuring import Measure, take_turns
from tests.bench.report import Comparison, Goal, Report
from tests.bench.worker import MESSAGE
from tests.process.http_client import http_client
from tests.support.database_locks import execute
from tests.support.long_sessions import make_session
from tests.support.server_process import ServerProcess

PAGE = 50
# In each round for each second of it: few, or the short session would become a long one.
ACTIONS = 100
SHORT, FEW = 100, 1_000
# Of each session, where there are many.
EACH = 10
UNCACHED = Settings(cache_bytes=0)

Action = Callable[[], Awaitable[object]]


class Sizes(NamedTuple):
    """How much there is: messages in the long session, and sessions with EACH messages."""

    messages: int
    sessions: int


FULL, QUICK = Sizes(1_000_000, 1_000_000), Sizes(20_000, 20_000)


async def run(databases: Databases, *, rounds: int, seconds: float, quick: bool) -> Report:
    """A ratio for each cost on each database."""
    sizes = QUICK if quick else FULL
    actions = round(ACTIONS * seconds)
    report = Report()
    for kind, url in (await databases.make()).items():
        report.add(await compare_lengths(kind, url, sizes.messages, actions, rounds))
    empty, few, many = [await databases.make() for _ in range(3)]
    for kind in empty:
        await fill(few[kind], FEW, EACH)
        filled = await fill(many[kind], sizes.sessions, EACH)
        report.notes.append(describe(kind, sizes.sessions, filled))
        report.add(await compare_lists(kind, few[kind], many[kind], sizes.sessions, actions, rounds))
        report.add(await compare_starts(kind, empty[kind], many[kind], sizes.sessions, rounds))
    return report


def describe(kind: str, sessions: int, filled: Filled) -> str:
    """What it took to fill a database."""
    rows = f"{sessions:,} sessions and {sessions * EACH:,} messages"
    return f"{kind}: {rows} were put in within {filled.seconds:.0f} s, and take {filled.size / 1e9:.2f} GB"


async def compare_lengths(kind: str, url: str, length: int, actions: int, rounds: int) -> Report:
    """A long session beside a short one. The page comes first: appends make the short one longer."""
    names = {f"{SHORT} messages": SHORT, f"{length:,} messages": length}
    for name, messages in names.items():
        await make_session(url, name, messages)
    # Postgres would begin with it by itself, in the midst of a round.
    await execute(url, "", "VACUUM")
    async with open_store(url, UNCACHED) as store:
        pages = {name: partial(store.list_messages, name, last=PAGE) for name in names}
        appends = {name: partial(store.append_messages, name, [MESSAGE]) for name in names}
        report = await compare(f"last {PAGE} messages of a session, {kind}", pages, actions, rounds, 1.2)
        report.add(await compare(f"one append to a session, {kind}", appends, actions, rounds, 1.2))
    return report


async def compare_lists(kind: str, few: str, many: str, sessions: int, actions: int, rounds: int) -> Report:
    """The first page of sessions where there are many beside that where there are few."""
    async with open_store(few, UNCACHED) as small, open_store(many, UNCACHED) as large:

        def first_page(store: Store) -> Awaitable[object]:
            return store.list_sessions(limit=PAGE)

        lists = {
            f"{FEW:,} sessions": partial(first_page, small),
            f"{sessions:,} sessions": partial(first_page, large),
        }
        return await compare(f"first {PAGE} sessions, {kind}", lists, actions, rounds, 1.5)


async def compare_starts(kind: str, empty: str, many: str, sessions: int, rounds: int) -> Report:
    """A server on many sessions beside one on none."""
    starts = {
        "no sessions": partial(time_to_first_reply, empty),
        f"{sessions:,} sessions": partial(time_to_first_reply, many),
    }
    return judge(f"from the start to the first reply, {kind}", await take_turns(starts, rounds), 1.2)


async def compare(
    title: str, actions: Mapping[str, Action], count: int, rounds: int, wanted: float
) -> Report:
    """What one of two actions takes beside the other."""
    measures: dict[str, Measure] = {name: partial(median_time, act, count) for name, act in actions.items()}
    return judge(title, await take_turns(measures, rounds), wanted)


def judge(title: str, results: Mapping[str, list[float]], wanted: float) -> Report:
    """The second of two beside the first, in milliseconds, which is to take `wanted` times that at most."""
    first, second = results
    table = Comparison(title, "ms", results, beside=first)
    return Report([table], [Goal(f"{title}: {second} beside {first}", table.ratio(second), wanted, True)])


async def median_time(action: Action, count: int) -> float:
    """The milliseconds that an action takes, at the median of so many in a row."""
    took = []
    for _ in range(count):
        started = time.perf_counter()
        await action()
        took.append(time.perf_counter() - started)
    return statistics.median(took) * 1e3


async def time_to_first_reply(url: str) -> float:
    """Milliseconds until a new server has answered a list of sessions."""
    started = time.perf_counter()
    with ServerProcess({"DB_URL": url}) as server:
        server.wait_until_listening()
        async with http_client(server.url) as client:
            await client.get("/sessions", limit=PAGE)
        elapsed = time.perf_counter() - started
        server.stop()
    return elapsed * 1e3
