"""The time of day jumps, forward and back: order, deadlines, flushes and leases do not go by it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from tests.faults.checker import check, count
from tests.faults.clock import Clock
from tests.faults.conftest import Report
from tests.faults.load import Load
from tests.faults.restarted_server import MortalServer, mortal_server
from tests.faults.stored import find_damage, read_database
from tests.process.http_client import HttpClient, Refused, http_client
from tests.support.model_server import model_server, says

HOUR = 3600.0
# A key is remembered for a day: two jumps together stay within it.
FARTHEST = 11 * HOUR
FLUSH_INTERVAL = 1.0
# Seconds, on a busy machine.
MARGIN = 2.0


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path / "clock")


@asynccontextmanager
async def served(url: str, clock: Clock, **settings: str) -> AsyncIterator[tuple[MortalServer, HttpClient]]:
    async with (
        mortal_server({"DB_URL": url, **settings}, command=clock.command) as server,
        http_client(server.target.url) as client,
    ):
        yield server, client


@pytest.mark.rounds(10)
async def test_w3_w4_order_by_seq_stays_while_the_clock_jumps(
    database_url: str, clock: Clock, rounds: int, seed: int, report: Report
) -> None:
    chance = Random(seed)
    async with served(database_url, clock) as (server, client):
        load = Load([server.target], seed=seed)
        async with load.running():
            for _ in range(rounds):
                clock.jump(chance.uniform(-FARTHEST, FARTHEST))
                await load.work(20)
        times = await read_times(client, "load-0")
        assert (await client.get("/health/ready"))["status"] == "ok"
        assert await server.stop() == 0
    findings = check(load.journal, read_database(database_url), heard_within=5.0) + find_damage(database_url)
    jumps_back = sum(later < earlier for earlier, later in pairwise(times))
    report(
        jumps=rounds,
        acknowledged=load.journal.count("acknowledged"),
        lost=count(findings, "lost"),
        doubled=count(findings, "doubled"),
        times_before_their_predecessor=jumps_back,
    )
    assert not findings, "\n".join(findings[:20])
    assert jumps_back, "the clock did not jump back"


async def read_times(client: HttpClient, session_id: str) -> list[datetime]:
    """The times of all messages, by their numbers: UTC, each of them, and says so."""
    messages = await client.read_forward(session_id, limit=500)
    assert [message["seq"] for message in messages] == list(range(1, len(messages) + 1))
    times = [datetime.fromisoformat(message["timestamp"]) for message in messages]
    assert {moment.utcoffset() for moment in times} == {timedelta(0)}
    return times


@pytest.mark.parametrize("offset", [-FARTHEST, FARTHEST])
async def test_w5_w8_flushes_and_deadlines_do_not_go_by_the_time_of_day(
    database_url: str, clock: Clock, offset: float, report: Report
) -> None:
    settings = {"FLUSH_INTERVAL": str(FLUSH_INTERVAL), "DURABILITY": "buffered"}
    async with served(database_url, clock, **settings) as (server, client):
        await client.post("/sessions", {"session_id": "s"})
        await client.post("/sessions/s/messages", user("before"))
        began = time.monotonic()
        clock.jump(offset)
        assert await client.read_metric("pending_writes") == 1
        assert await client.read_metric("flush_lag_seconds") < FLUSH_INTERVAL + MARGIN
        seconds = await wait_until_flushed(client) - began
        assert await server.stop() == 0
    report(flushed_after_s=seconds)
    assert seconds < FLUSH_INTERVAL + MARGIN
    assert [content for _, content in read_database(database_url)["s"].messages] == ["before"]


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


async def wait_until_flushed(client: HttpClient) -> float:
    async with asyncio.timeout(60):
        while await client.read_metric("pending_writes"):  # noqa: ASYNC110 - a server has no event
            await asyncio.sleep(0.01)
    return time.monotonic()


async def test_approvals_expire_by_the_clock_and_what_is_decided_stays_decided(
    database_url: str, clock: Clock
) -> None:
    async with served(database_url, clock) as (server, client):
        await client.post("/sessions", {"session_id": "s"})
        for call_id in ("decided", "waits"):
            await client.post("/sessions/s/approvals", approval(call_id))
        await client.post("/sessions/s/approvals/decided/decision", {"decision": "approve"})
        clock.jump(HOUR)
        assert await statuses(client) == {"decided": "approved", "waits": "expired"}
        with pytest.raises(Refused, match="approval_expired"):
            await client.post("/sessions/s/approvals/waits/decision", {"decision": "approve"})
        clock.jump(-HOUR)
        assert (await statuses(client))["decided"] == "approved"
        assert await server.stop() == 0


def approval(call_id: str) -> dict[str, object]:
    return {"call_id": call_id, "tool_name": "look", "arguments": {}, "expires_in": 60}


async def statuses(client: HttpClient) -> dict[str, str]:
    reply = await client.get("/sessions/s/approvals")
    return {each["call_id"]: each["status"] for each in reply["approvals"]}


async def test_a_turn_and_its_lease_outlive_jumps_of_the_clock(database_url: str, clock: Clock) -> None:
    gate = asyncio.Semaphore(0)
    words = says("one ", "two ", gate=gate)
    async with (
        model_server(lambda _: words) as model,
        served(database_url, clock, LLM_URL=model.url) as (server, client),
    ):
        async with client.ask("s", "Count.") as events:
            for offset in (FARTHEST, -FARTHEST, 0.0):
                clock.jump(offset)
                # Whoever lists the turns looks whether they are lost.
                [turn] = (await client.get("/sessions/s/turns"))["turns"]
                assert turn["status"] == "running"
                gate.release()
            last = [event async for event in events][-1]
        assert (last.name, last.data["status"]) == ("done", "completed")
        assert await server.stop() == 0


async def test_w12_a_key_is_known_again_after_the_clock_went_back(database_url: str, clock: Clock) -> None:
    async with served(database_url, clock) as (server, client):
        await client.post("/sessions", {"session_id": "s"})
        first = await client.post("/sessions/s/messages", user("x"), key="k")
        for offset in (-FARTHEST, FARTHEST):
            clock.jump(offset)
            assert await client.post("/sessions/s/messages", user("x"), key="k") == first
        assert client.replayed == 2
        assert await server.stop() == 0


@pytest.mark.parametrize("ahead", [25 * HOUR, 1000 * HOUR])
async def test_w12_a_clock_a_day_ahead_for_seconds_costs_no_key(
    database_url: str, clock: Clock, ahead: float
) -> None:
    async with served(database_url, clock) as (server, client):
        await client.post("/sessions", {"session_id": "s"})
        first = await client.post("/sessions/s/messages", user("x"), key="k")
        clock.jump(ahead)
        # As the server does by itself every few seconds: it forgets what is old before it answers.
        cleaned = await client.post("/maintenance/cleanup", {})
        assert cleaned == {"soft_deleted": 0, "hard_deleted": 0}
        clock.jump(0.0)
        assert await client.post("/sessions/s/messages", user("x"), key="k") == first
        assert client.replayed == 1
        assert await server.stop() == 0
