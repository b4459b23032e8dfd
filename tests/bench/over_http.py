"""Over HTTP, beside an aiohttp server that does nothing: durable appends, and last pages from memory."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from urllib.request import urlopen

from tests.bench.databases import Databases
from tests.bench.measuring import Measure, take_turns
from tests.bench.report import Comparison, Goal, Report
from tests.bench.worker import MESSAGE, SESSIONS
from tests.process.http_client import http_client
from tests.support.server_process import ServerProcess, start_server

CONNECTIONS = 128
# Of what the empty handler reaches.
APPENDS_WANTED = {"sqlite": 0.70, "postgres": 0.60}
PAGES_WANTED = {"sqlite": 0.70, "postgres": 0.70}
PAGE = 50
PATHS = [f"/sessions/{session_id}/messages" for session_id in SESSIONS]
EMPTY = "an empty aiohttp handler"
EMPTY_SERVER = (sys.executable, "-m", "tests.bench.empty_server")


async def run(databases: Databases, *, rounds: int, seconds: float, quick: bool) -> Report:
    """The empty server and ours on each database, taking turns."""
    async with servers(databases) as urls:
        # First, while each session has one page of messages.
        pages = await compare_pages(urls, rounds, seconds)
        appends = await compare_appends(urls, rounds, seconds)
    report = judge(appends, APPENDS_WANTED)
    report.add(judge(pages, PAGES_WANTED))
    return report


def judge(table: Comparison, wanted: dict[str, float]) -> Report:
    """The table, and the goals that it is for."""
    return Report(
        [table], [Goal(f"{table.title}, {kind}", table.ratio(kind), share) for kind, share in wanted.items()]
    )


@asynccontextmanager
async def servers(databases: Databases) -> AsyncIterator[dict[str, str]]:
    """The URLs of the empty server, and of ours on each database with a page of messages in each session."""
    with ExitStack() as stack:
        empty = stack.enter_context(ServerProcess({}, command=EMPTY_SERVER))
        empty.wait_until_listening()
        urls = {EMPTY: empty.url}
        for kind, database in (await databases.make()).items():
            urls[kind] = stack.enter_context(start_server({"DB_URL": database, "ACCESS_LOG": "off"})).url
            await make_sessions(urls[kind])
        yield urls


async def make_sessions(url: str) -> None:
    async with http_client(url) as client:
        for session_id in SESSIONS:
            await client.post("/sessions", {"session_id": session_id, "messages": [MESSAGE] * PAGE})


async def compare_appends(urls: dict[str, str], rounds: int, seconds: float) -> Comparison:
    """Replies a second to durable appends."""
    measures: dict[str, Measure] = {
        name: partial(load, "POST", url, seconds, PATHS) for name, url in urls.items()
    }
    results = await take_turns(measures, rounds)
    return Comparison(f"durable appends over HTTP, {CONNECTIONS} connections", "replies/s", results, EMPTY)


async def compare_pages(urls: dict[str, str], rounds: int, seconds: float) -> Comparison:
    """Replies a second that bring the last messages of a session, which memory has."""
    last = [f"{path}?last={PAGE}" for path in PATHS]
    size = size_of_reply(urls["sqlite"] + last[0])
    measures: dict[str, Measure] = {
        name: partial(load, "GET", url, seconds, last) for name, url in urls.items()
    }
    measures[EMPTY] = partial(load, "GET", urls[EMPTY], seconds, [f"/bytes/{size}"])
    title = f"last {PAGE} messages over HTTP, {size / 1e3:.0f} KB, {CONNECTIONS} connections"
    return Comparison(title, "replies/s", await take_turns(measures, rounds), EMPTY)


def size_of_reply(url: str) -> int:
    """The bytes of a body."""
    with urlopen(url) as reply:
        return len(reply.read())


async def load(method: str, url: str, seconds: float, paths: Sequence[str]) -> float:
    """Replies a second that a load generator in a process of its own gets."""
    arguments = ("-m", "tests.bench.load", method, url, str(CONNECTIONS), str(seconds), *paths)
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    try:
        output, _ = await asyncio.wait_for(process.communicate(), seconds + 60)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, "the load generator failed: see above"
    return float(output)
