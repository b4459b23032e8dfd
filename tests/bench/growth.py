"""What has to cost the same whatever there is already: appends, last pages, starting."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial

from runtime.config import Settings
from runtime.store.store import open_store
from tests.bench.append import MESSAGE
from tests.bench.databases import Databases
from tests.bench.measuring import print_ratio, take_turns
from tests.contract.filling import filling
from tests.contract.obstacles import execute
from tests.long_sessions import make_session
from tests.process.http_client import http_client
from tests.server_process import ServerProcess

LENGTHS = {"100 messages": 100, "100,000 messages": 100_000}
PAGE = 50


async def run(databases: Databases, *, rounds: int, seconds: float) -> None:
    """Print a ratio for each cost on each database."""
    for kind, url in (await databases.make()).items():
        await compare_sessions(kind, url, rounds, seconds)
    empty, filled = await databases.make(), await databases.make()
    for kind in empty:
        await compare_starts(kind, empty[kind], filled[kind], rounds)


async def compare_sessions(kind: str, url: str, rounds: int, seconds: float) -> None:
    """A long session beside a short one, without a cache: the database is asked each time."""
    for name, length in LENGTHS.items():
        await make_session(url, name, length)
    async with open_store(url, Settings(cache_bytes=0)) as store:

        def append(name: str) -> Awaitable[object]:
            return store.append_messages(name, [MESSAGE])

        def last_page(name: str) -> Awaitable[object]:
            return store.list_messages(name, last=PAGE)

        for title, action in (("one append", append), (f"the last {PAGE} messages", last_page)):
            measures = {name: partial(mean_time, partial(action, name), seconds) for name in LENGTHS}
            print_ratio(f"{title}, {kind}", await take_turns(measures, rounds))


async def mean_time(action: Callable[[], Awaitable[object]], seconds: float) -> float:
    """The seconds that an action takes, on average over some time."""
    done = 0
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        await action()
        done += 1
    return elapsed / done


async def compare_starts(kind: str, empty: str, filled: str, rounds: int) -> None:
    """A server on 10,000 sessions beside one on none."""
    for statement in filling("sqlite" if kind == "sqlite" else "postgres"):
        await execute(filled, statement, statement)
    starts = {
        "no sessions": partial(time_to_first_reply, empty),
        "10,000 sessions": partial(time_to_first_reply, filled),
    }
    print_ratio(f"from the start to the first reply, {kind}", await take_turns(starts, rounds))


async def time_to_first_reply(url: str) -> float:
    """Seconds until a new server has answered a list of sessions."""
    started = time.perf_counter()
    with ServerProcess({"DB_URL": url}) as server:
        server.wait_until_listening()
        async with http_client(server.url) as client:
            await client.get("/sessions", limit=1)
        elapsed = time.perf_counter() - started
        server.stop()
    return elapsed
