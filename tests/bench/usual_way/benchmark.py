"""Beside the way that this is usually written, over HTTP: appends, a long session, many sessions, starts."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import cycle
from urllib.parse import urlsplit
from uuid import uuid4

from tests.bench.databases import Databases
from tests.bench.load import encode_request
from tests.bench.measuring import take_turns
from tests.bench.peers import environment
from tests.bench.report import Comparison, Report
from tests.bench.usual_way.services import CONNECTIONS, Service, fill_ours, fill_usual, ours, rate, usual
from tests.bench.worker import MESSAGE
from tests.process.http_client import http_client

OURS, USUAL = "agent-runtime", "the usual way"
# Acknowledged before they are stored.
OURS_LATER, USUAL_LATER = f"{OURS}, buffered", f"{USUAL}, stored every five seconds"
OURS_EMPTY, USUAL_EMPTY = f"{OURS}, no session", f"{USUAL}, no session"
# Of the peers' environment, what the usual way runs on.
PACKAGES = ("fastapi", "uvicorn", "sqlalchemy", "aiosqlite", "asyncpg", "uvloop")
# A round appends to so many new sessions: histories that grow make the usual way slower from round to round.
NEW = 50
LONG = 5_000
# So many in a row are one figure: one of ours is over in a millisecond.
LONE = 3
SESSIONS, MESSAGES = 700, 20
# At most so many rounds of starts.
STARTS = 3
AT_ONCE = f"{CONNECTIONS} connections"


async def run(databases: Databases, *, rounds: int, seconds: float, quick: bool) -> Report:
    """The tables of each database in turn."""
    await environment.prepare()
    used = [version for version in await environment.versions() if version.split()[0] in PACKAGES]
    report = Report(notes=[f"the usual way runs on {', '.join(used)}"])
    for kind in ("sqlite", "postgres"):
        report.comparisons.extend(await compare_appends(databases, kind, rounds, seconds))
        services = await with_many(databases, kind)
        # Before they have more sessions.
        report.add(await compare_starts(kind, services, 1 if quick else min(rounds, STARTS)))
        report.comparisons.extend(await compare_many(kind, services, rounds, seconds))
    return report


# Appends


async def compare_appends(databases: Databases, kind: str, rounds: int, seconds: float) -> list[Comparison]:
    """Appends to new sessions by all connections, and lone ones to a long session."""
    services = await appended_to(databases, kind)
    with ExitStack() as stack:
        urls = {name: stack.enter_context(service.start()).url for name, service in services.items()}
        many = await take_turns({name: partial(append, url, seconds) for name, url in urls.items()}, rounds)
        lone = await take_turns({name: partial(append_lone, urls[name]) for name in (USUAL, OURS)}, rounds)
    return [
        Comparison(f"appends over HTTP, {AT_ONCE}, {kind}", "appends/s", many, USUAL),
        Comparison(f"one append to a session of {LONG:,}, {kind}", "ms", lone, USUAL),
    ]


async def appended_to(databases: Databases, kind: str) -> dict[str, Service]:
    """Both, and both when they store later. Those that commit have a long session."""
    return {
        USUAL: await fill_usual((await databases.make_empty())[kind], 1, LONG),
        OURS: await fill_ours((await databases.make())[kind], 1, LONG),
        USUAL_LATER: usual((await databases.make_empty())[kind], "flush"),
        OURS_LATER: ours((await databases.make())[kind], "buffered"),
    }


async def append(url: str, seconds: float) -> float:
    """Appends a second to new sessions."""
    names = [uuid4().hex for _ in range(NEW)]
    async with http_client(url) as client:
        await asyncio.gather(*(client.post("/sessions", {"session_id": name}) for name in names))
    host = urlsplit(url).netloc
    requests = [encode_request("POST", host, f"/sessions/{name}/messages") for name in names]
    return await rate(url, cycle(requests), seconds)


async def append_lone(url: str) -> float:
    """Milliseconds until a message of the long session is stored: in the usual way its whole history is."""
    async with http_client(url) as client:
        started = time.perf_counter()
        for _ in range(LONE):
            await client.post("/sessions/session-0/messages", MESSAGE)
    return (time.perf_counter() - started) / LONE * 1e3


# Many sessions


async def with_many(databases: Databases, kind: str) -> dict[str, Service]:
    """Both with many sessions, and both without any."""
    return {
        USUAL: await fill_usual((await databases.make_empty())[kind], SESSIONS, MESSAGES),
        OURS: await fill_ours((await databases.make())[kind], SESSIONS, MESSAGES),
        USUAL_EMPTY: usual((await databases.make_empty())[kind]),
        OURS_EMPTY: ours((await databases.make())[kind]),
    }


async def compare_starts(kind: str, services: dict[str, Service], rounds: int) -> Report:
    """Seconds until they listen, and what that comes to for each session."""
    results = await take_turns({name: service.time_start for name, service in services.items()}, rounds)
    starts = Comparison(f"start with {SESSIONS} sessions of {MESSAGES}, {kind}", "seconds", results)
    slower = {USUAL: USUAL_EMPTY, OURS: OURS_EMPTY}
    each = {name: (starts.median(name) - starts.median(empty)) / SESSIONS for name, empty in slower.items()}
    shown = ", ".join(f"{name} {seconds * 1e3:.2f} ms" for name, seconds in each.items())
    return Report([starts], notes=[f"start later for each session, {kind}: {shown}"])


async def compare_many(
    kind: str, services: dict[str, Service], rounds: int, seconds: float
) -> list[Comparison]:
    """What those with many sessions do."""
    with ExitStack() as stack:
        urls = {name: stack.enter_context(services[name].start()).url for name in (USUAL, OURS)}
        listed = await compare_lists(kind, urls, rounds, seconds)
        return [listed, await compare_creations(kind, urls, rounds, seconds)]


async def compare_lists(kind: str, urls: dict[str, str], rounds: int, seconds: float) -> Comparison:
    """The usual way has no pages: beside it stand all sessions in one page of ours, and a page of 50."""
    paths = {
        USUAL: (urls[USUAL], "/sessions"),
        f"{OURS}, all in one page": (urls[OURS], f"/sessions?limit={SESSIONS}"),
        f"{OURS}, a page of 50": (urls[OURS], "/sessions?limit=50"),
    }
    measures = {name: partial(get, url, path, seconds) for name, (url, path) in paths.items()}
    title = f"GET /sessions of {SESSIONS}, {AT_ONCE}, {kind}"
    return Comparison(title, "replies/s", await take_turns(measures, rounds), USUAL)


async def get(url: str, path: str, seconds: float) -> float:
    """Replies a second."""
    return await rate(url, cycle([encode_request("GET", urlsplit(url).netloc, path)]), seconds)


async def compare_creations(kind: str, urls: dict[str, str], rounds: int, seconds: float) -> Comparison:
    """New sessions a second, beside those that there are."""
    measures = {name: partial(create, url, seconds) for name, url in urls.items()}
    title = f"POST /sessions beside {SESSIONS}, {AT_ONCE}, {kind}"
    return Comparison(title, "replies/s", await take_turns(measures, rounds), USUAL)


async def create(url: str, seconds: float) -> float:
    """Replies a second."""
    return await rate(url, creations(urlsplit(url).netloc), seconds)


def creations(host: str) -> Iterator[bytes]:
    """Requests for new sessions, without end."""
    while True:
        body = json.dumps({"session_id": uuid4().hex}).encode()
        yield encode_request("POST", host, "/sessions", body)
