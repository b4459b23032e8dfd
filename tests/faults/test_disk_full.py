"""A disk under SQLite that is full, or takes no writes: refused, read on, healed without a restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from runtime.retry import LONGEST_PAUSE
from tests.faults.checker import check, count
from tests.faults.conftest import Report
from tests.faults.disks import ballast, check_protection, small_disk, write_protected
from tests.faults.load import Load
from tests.faults.restarted_server import MortalServer, mortal_server
from tests.faults.stored import find_damage, read_database
from tests.process.http_client import http_client
from tests.support.server_process import run_command, start_server

WRITE_TIMEOUT = 2.0
# The writer's longest pause between two tries, and a batch.
LONGEST_RECOVERY = 5.0
PATIENCE = 10.0


async def test_a_full_disk_refuses_writes_reads_on_and_heals(
    tmp_path: Path, rounds: int, seed: int, report: Report
) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        await check_fault(
            f"sqlite:///{disk}/agent_runtime.db", lambda: ballast(disk), "full", rounds, seed, report
        )


async def test_a_disk_that_takes_no_writes_refuses_them_reads_on_and_heals(
    tmp_path: Path, sqlite_url: str, rounds: int, seed: int, report: Report
) -> None:
    check_protection(tmp_path)
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    # Not the WAL-index: it is memory that processes share, and the kernel kills whoever cannot write to that.
    files = [path, Path(f"{path}-wal")]
    await check_fault(sqlite_url, lambda: write_protected(files), "I/O error", rounds, seed, report)


async def check_fault(
    url: str,
    fault: Callable[[], AbstractContextManager[None]],
    name: str,
    rounds: int,
    seed: int,
    report: Report,
) -> None:
    recoveries = []
    async with mortal_server({"DB_URL": url, "WRITE_TIMEOUT": str(WRITE_TIMEOUT)}) as server:
        load = Load([server.target], seed=seed, pause=0.01)
        async with load.running():
            for _ in range(rounds):
                await until(lambda at=load.stored: load.stored > at + 50)
                with fault():
                    await check_while_it_lasts(load, server, name)
                recoveries.append(await recovery(load))
                await until_ready(server, 200)
        assert await server.stop() == 0
    findings = check(load.journal, read_database(url)) + find_damage(url)
    report(
        rounds=rounds,
        acknowledged=load.journal.count("acknowledged"),
        refused=load.journal.refusals["503 not_stored"] + load.journal.refusals["503 overloaded"],
        lost=count(findings, "lost"),
        doubled=count(findings, "doubled"),
        recovery_s=max(recoveries),
    )
    assert not findings, "\n".join(findings[:20])
    assert max(recoveries) < LONGEST_RECOVERY
    assert "Traceback" not in server.process.log


async def check_while_it_lasts(load: Load, server: MortalServer, name: str) -> None:
    """Writes are refused by their deadline and none is acknowledged; reads go on, and health says why."""
    refused = load.journal.refusals["503 not_stored"]
    await until(lambda: load.journal.refusals["503 not_stored"] >= refused + 4)
    stored, reads = load.stored, len(load.journal.reads)
    ready = await until_ready(server, 503)
    assert name in ready["checks"]["writer"], ready
    assert ready["checks"]["database"] == "ok"
    await until(lambda: len(load.journal.reads) > reads + 20)
    async with http_client(server.target.url) as client:
        await client.get("/health")
    assert load.stored == stored


async def recovery(load: Load) -> float:
    """How long it takes until a write is acknowledged again, in seconds."""
    began, stored = time.monotonic(), load.stored
    await until(lambda: load.stored > stored)
    return time.monotonic() - began


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


async def until_ready(server: MortalServer, status: int) -> Any:
    """What the server says of its readiness as soon as that has this status."""
    async with asyncio.timeout(PATIENCE), aiohttp.ClientSession() as http:
        while True:
            async with http.get(f"{server.target.url}/health/ready") as reply:
                if reply.status == status:
                    return await reply.json()
            await asyncio.sleep(0.01)


async def test_who_was_not_ready_is_again_though_nobody_writes(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 16) as disk:
        async with (
            mortal_server({"DB_URL": f"sqlite:///{disk}/x.db", "WRITE_TIMEOUT": "0.5"}) as server,
            http_client(server.target.url) as client,
        ):
            with ballast(disk):
                with pytest.raises(AssertionError, match="not_stored"):
                    await client.post("/sessions", {"metadata": {"text": "x" * 20_000}})
                await until_ready(server, 503)
            await until_ready(server, 200)


async def test_a_file_that_was_opened_read_only_is_written_once_it_can_be(
    sqlite_url: str, tmp_path: Path
) -> None:
    check_protection(tmp_path)
    run_command("stats", env={"DB_URL": sqlite_url})  # from now on it has a WAL
    with write_protected([Path(sqlite_url.removeprefix("sqlite:///"))]):
        # Longer than the writer pauses: the next write may come at the beginning of a pause.
        server = start_server({"DB_URL": sqlite_url, "WRITE_TIMEOUT": f"{LONGEST_PAUSE + 0.5}"})
        async with http_client(server.url) as client:
            with pytest.raises(AssertionError, match="not_stored"):
                await client.post("/sessions", {})
    with server:
        async with http_client(server.url) as client:
            await client.post("/sessions", {})
        assert server.stop() == 0
