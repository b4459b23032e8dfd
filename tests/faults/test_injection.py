"""Texts that are made to break out of where they are put: into SQL, JSON, headers, log lines, events. In
every field that takes a text, as the table of routes, the types of bodies and the OpenAPI document name them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import aiohttp
import pytest

from tests.faults.conftest import Report
from tests.faults.corpus import TEXTS, mixed
from tests.faults.injecting import MESSAGES, PLACES, WRITES, Injector, path_of
from tests.faults.stored import find_damage
from tests.support.server_process import ServerProcess, start_server

AT_A_TIME = 16
TIMEOUT = aiohttp.ClientTimeout(total=60)
# A body takes many texts, one after the other: in a usual run every sixteenth begins one.
STRIDE = 16
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING) [a-z_.]+: ")
NEIGHBOUR = {"session_id": "neighbour", "title": "t", "messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.rounds(1)
async def test_whatever_is_stored_is_given_back_unchanged(
    database_url: str, rounds: int, seed: int, report: Report
) -> None:
    texts = [*TEXTS, *mixed(Random(seed), 100 * max(0, rounds - STRIDE))]
    places = [(i, n) for i in range(len(texts)) for n in range(len(WRITES)) if (i + n) % STRIDE < rounds]
    with start_server({"DB_URL": database_url, "LOG_LEVEL": "DEBUG"}) as server:
        async with injecting(server, texts, seed) as injector:
            await run_all(injector.inject, places)
            await check_list(injector)
    assert find_damage(database_url) == []
    report(texts=len(texts), stored=injector.stored, refused=injector.refused)


@pytest.mark.rounds(1)
async def test_paths_queries_and_headers_are_taken_or_refused_with_a_reason(
    database_url: str, rounds: int, seed: int, report: Report
) -> None:
    with start_server({"DB_URL": database_url, "LOG_LEVEL": "DEBUG"}) as server:
        async with injecting(server, TEXTS, seed) as injector:
            places = [
                (i, n) for i in range(len(TEXTS)) for n in range(len(PLACES)) if (i + n) % STRIDE < rounds
            ]
            await run_all(injector.probe, places)
    assert find_damage(database_url) == []
    report(texts=len(TEXTS), places=len(PLACES), taken=injector.stored, refused=injector.refused)


@asynccontextmanager
async def injecting(server: ServerProcess, texts: list[str], seed: int) -> AsyncIterator[Injector]:
    """Injects beside a session that must stay as it is, and looks at the log at the end."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=TIMEOUT) as http:
        injector = Injector(http, server.url, texts, seed)
        await injector.ask("POST", "/sessions", NEIGHBOUR)
        injector.sessions.add("neighbour")
        before = await see_neighbour(injector)
        yield injector
        assert await see_neighbour(injector) == before
    assert server.stop() == 0
    assert [line for line in server.log.splitlines() if not LOG_LINE.match(line)] == []


async def see_neighbour(injector: Injector) -> list[Any]:
    session = await injector.ask("GET", "/sessions/neighbour")
    return [session, await injector.ask("GET", path_of(MESSAGES, session_id="neighbour"))]


async def run_all(step: Callable[..., Coroutine[Any, Any, None]], places: list[tuple[int, int]]) -> None:
    """Take every step, some at a time."""
    waiting = iter(places)

    async def work() -> None:
        for place in waiting:
            await step(*place)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_A_TIME):
            tasks.create_task(work())


async def check_list(injector: Injector) -> None:
    """The list names each session that was made, page by page, and no other."""
    listed: list[str] = []
    cursor = ""
    while cursor is not None:
        page = await injector.ask("GET", f"/sessions?limit=100&count=true{cursor and '&cursor=' + cursor}")
        listed += [session["session_id"] for session in page["sessions"]]
        cursor = page["next_cursor"]
    assert sorted(listed) == sorted(injector.sessions)
    assert page["total"] == len(listed)
