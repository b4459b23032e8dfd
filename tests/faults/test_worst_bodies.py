"""The worst bodies that there are, to every route that takes one: nobody else waits meanwhile (R7)."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from io import BytesIO
from pathlib import Path

import aiohttp
import pytest

from runtime.api.application import ROUTES
from tests.faults.conftest import Report
from tests.faults.raw_http import memory_of
from tests.faults.worst_bodies import PLACES, Place
from tests.support.server_process import ServerProcess, environment, start_server

JSON = {"Content-Type": "application/json"}
TIMEOUT = aiohttp.ClientTimeout(total=300)
# Seconds that another may wait: a third of it is seen where nothing else runs, and on a busy machine they
# may be several times what they are where nobody asks for anything.
LONGEST_WAIT, TIMES_CALM = 0.5, 8
# MiB that the server, without the process that parses, may grow by.
MEMORY = 500
# The values that a place is given, where it takes one of that name; one place takes all.
USUAL = {"large floats", "a list of lists", "many short messages", "of a message"}
THOROUGH = "unknown field"


def chosen() -> Iterator[tuple[str, Place, str]]:
    for name, place in PLACES.items():
        for value in place.values:
            if name == THOROUGH or value in USUAL:
                yield name, place, value


def test_every_route_that_takes_a_body_has_a_place() -> None:
    taking = {
        (route.method, route.path.split("/")[-1]) for route in ROUTES if route.parsed[1] is not type(None)
    }
    given = {(place.method, place.path.split("/")[-1]) for place in PLACES.values()}
    named = {"{session_id}": {"s", "saved", "ensured"}}
    missing = {
        (method, last)
        for method, last in taking
        if not {(method, n) for n in named.get(last, {last})} & given
    }
    assert missing == set()


@contextmanager
def probing(url: str, lines: Path) -> Iterator[None]:
    with lines.open("w") as file:
        command = [sys.executable, "-m", "tests.faults.prober", url]
        prober = subprocess.Popen(command, stdout=file, env=environment({}))
        try:
            yield
        finally:
            prober.kill()
            prober.wait()


def waits_in(lines: Path) -> list[tuple[float, float]]:
    """When an answer came, and how long it took."""
    whole = lines.read_text().splitlines()
    return [(float(at), float(took)) for at, _, took in (line.partition(" ") for line in whole[:-1])]


@asynccontextmanager
async def asked(server: ServerProcess) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server.url, timeout=TIMEOUT, headers=JSON) as http:
        approval = {"call_id": "c", "tool_name": "t", "arguments": {}}
        for path, body in (("/sessions", {"session_id": "s"}), ("/sessions/s/approvals", approval)):
            async with http.post(path, json=body) as response:
                assert response.status == 201
        yield http


async def send(http: aiohttp.ClientSession, place: Place, value: str) -> tuple[int, float, float]:
    """The status that a body is answered with, and when it was sent and answered."""
    started = time.monotonic()
    async with http.request(place.method, place.path, data=BytesIO(place.body(value))) as response:
        text = await response.text()
        if response.status == 503 and json.loads(text)["code"] == "overloaded":
            # What is erased of an earlier one waits in the queue as well. It has gone when it is asked again.
            await asyncio.sleep(int(response.headers["Retry-After"]))
            return await send(http, place, value)
        assert response.status < 500, text
        if response.status >= 400:
            assert response.content_type == "application/problem+json"
            assert json.loads(text)["status"] == response.status
    return response.status, started, time.monotonic()


@pytest.mark.usefixtures("database_url")
async def test_nobody_waits_for_the_worst_bodies(database_url: str, tmp_path: Path, report: Report) -> None:
    lines = tmp_path / "waits"
    settings = {"DB_URL": database_url, "WRITE_TIMEOUT": "120", "ACCESS_LOG": "off"}
    with start_server(settings) as server:
        async with asked(server) as http:
            before = memory_of(server.pid)
            with probing(server.url, lines):
                await asyncio.sleep(1.0)  # A second of calm to compare with.
                begun = time.monotonic()
                sent = {(name, value): await send(http, place, value) for name, place, value in chosen()}
            memory = peak_of(server.pid) - before
        assert server.stop() == 0
        assert "Traceback" not in server.log
    waits = waits_in(lines)
    calm = max(took for at, took in waits if at < begun)
    worst = {
        body: max((took for at, took in waits if started < at < ended + calm), default=0.0)
        for body, (_, started, ended) in sent.items()
    }
    slowest = max(worst, key=lambda body: worst[body])
    stored = sum(status < 300 for status, _, _ in sent.values())
    report(bodies=len(sent), stored=stored, worst_wait_s=worst[slowest], calm_s=calm, memory_mib=memory)
    assert worst[slowest] < max(LONGEST_WAIT, TIMES_CALM * calm), slowest
    assert memory < MEMORY
    assert stored > len(sent) / 3


def peak_of(pid: int) -> float:
    """The most that a process ever had in memory, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


async def test_the_process_that_parses_ends_with_a_server_that_is_killed(database_url: str) -> None:
    with start_server({"DB_URL": database_url}) as server:
        async with asked(server) as http:
            place = PLACES["content"]
            await send(http, place, "large floats")
            children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
            assert len(children) == 1
        server.kill()  # It reads the log to its end, which the process holds open.
        async with asyncio.timeout(60):
            while not is_ended(children[0]):  # noqa: ASYNC110 - a process of another's has no event
                await asyncio.sleep(0.01)


def is_ended(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True
