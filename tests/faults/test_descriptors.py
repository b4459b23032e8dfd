"""More connections than there are file descriptors for: refused, with the others served, and no busy loop."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import pytest

from tests.faults.checker import check, count
from tests.faults.conftest import Report
from tests.faults.load import Load
from tests.faults.restarted_server import MortalServer, mortal_server
from tests.faults.stored import find_damage, read_database
from tests.process.http_client import http_client
from tests.support.server_process import SERVE

ON_ASYNCIO = """
import sys
sys.modules["uvloop"] = None
from runtime.cli import main
sys.exit(main(["serve"]))
"""
LOOPS = {"usual": SERVE, "asyncio": (sys.executable, "-c", ON_ASYNCIO)}
FILES = 256
# How long the fault lasts, in seconds; a busy loop would take all of it, and this is what may be taken.
EPISODE, CPU_SHARE = 2.0, 0.25
LONGEST_RECOVERY = 5.0


@pytest.fixture(params=LOOPS)
def command(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return LOOPS[request.param]


def limited(command: tuple[str, ...]) -> tuple[str, ...]:
    """The command with so many file descriptors, and no way to more."""
    return ("sh", "-c", f'ulimit -n {FILES}; exec "$@"', "sh", *command)


@contextmanager
def crowd(url: str, size: int) -> Iterator[list[socket.socket]]:
    """Connections that are opened and say nothing."""
    place = urlsplit(url)
    opened: list[socket.socket] = []
    try:
        for _ in range(size):
            with suppress(OSError):
                opened.append(socket.create_connection((place.hostname, place.port), timeout=1))
        yield opened
    finally:
        for each in opened:
            each.close()


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    with open(f"/proc/{pid}/stat") as stat:
        user, system = stat.read().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def files_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def test_a_crowd_is_refused_while_others_are_served(
    database_url: str, rounds: int, seed: int, report: Report
) -> None:
    recoveries = []
    async with mortal_server({"DB_URL": database_url}, command=limited(SERVE)) as server:
        load = Load([server.target], seed=seed, followers=0, pause=0.01)
        async with load.running():
            for _ in range(rounds):
                await wait_for_writes(load, 30)
                with crowd(server.target.url, 2 * FILES):
                    # Who has a connection goes on: not one request fails.
                    await wait_for_writes(load, 50)
                    assert not load.journal.refusals
                    assert files_of(server.process.pid) < FILES - 64, "nothing is left for what serves"
                recoveries.append(await recovery(server))
        assert await server.stop() == 0
    findings = check(load.journal, read_database(database_url)) + find_damage(database_url)
    report(
        rounds=rounds,
        acknowledged=load.journal.count("acknowledged"),
        lost=count(findings, "lost"),
        doubled=count(findings, "doubled"),
        recovery_s=max(recoveries),
    )
    assert not findings, "\n".join(findings[:20])
    # For the limit of connections and, where asyncio has taken more than that at once, for the files.
    assert server.process.log.count("connections are refused") in (1, 2)
    assert max(recoveries) < LONGEST_RECOVERY
    assert "Traceback" not in server.process.log


async def test_without_one_descriptor_left_it_waits_quietly_and_recovers(
    database_url: str, command: tuple[str, ...], report: Report
) -> None:
    """The limit is lowered under it, so that it cannot know."""
    async with mortal_server({"DB_URL": database_url, "CACHE_BYTES": "0"}, command=command) as server:
        pid, url = server.process.pid, server.target.url
        async with http_client(url) as client:
            await client.post("/sessions", {"session_id": "s"})
            await client.get("/sessions/s/messages")
            limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (files_of(pid) + 40, limits[1]))
            lines = server.process.log.count("\n")
            with crowd(url, 150):
                cpu = cpu_seconds(pid)
                await asyncio.sleep(EPISODE)
                used = cpu_seconds(pid) - cpu
                for number in range(5):
                    await client.post("/sessions/s/messages", {"role": "user", "content": str(number)})
                assert len(await client.read_forward("s", 10)) == 5
                await client.get("/health")
                logged = server.process.log.count("\n") - lines
            seconds = await recovery(server)
            log = server.process.log
        assert await server.stop() == 0
    report(cpu_share=used / EPISODE, log_lines=logged, recovery_s=seconds)
    assert used < EPISODE * CPU_SHARE
    assert logged < 20
    assert seconds < LONGEST_RECOVERY
    assert "Traceback" not in log


async def wait_for_writes(load: Load, count: int) -> None:
    stored = load.stored
    async with asyncio.timeout(10):
        while load.stored < stored + count:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


async def recovery(server: MortalServer) -> float:
    """How long it takes until whoever comes is served again, in seconds."""
    began = time.monotonic()
    async with asyncio.timeout(LONGEST_RECOVERY * 2), http_client(server.target.url) as client:
        while True:
            try:
                async with asyncio.timeout(1):
                    await client.get("/health")
                return time.monotonic() - began
            except (OSError, TimeoutError):
                await asyncio.sleep(0.01)
