"""The checker is tested: it finds each fault that is planted in the server, and nothing where none is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.faults.checker import check
from tests.faults.load import Load
from tests.faults.planted import FAULTS, command
from tests.faults.restarted_server import MortalServer, mortal_server
from tests.faults.stored import read_database

# The rule by which each fault is to be found, and, of those that show only when the server is killed, too.
FOUND_BY = {
    "": "",
    "acknowledge_before_commit": "stale",
    "drop_notifications": "follower",
    "write_twice": "doubled",
    "repeat_the_effect": "doubled",
    "forget_keys": "doubled",
    "lose_the_middle": "torn",
    "reorder": "moved",
    "read_stale_heads": "stale",
    "refuse_what_is_stored": "refused",
}
FOUND_AFTER_KILLS = {"acknowledge_before_commit": "lost"}
FOUND_IN_BUFFERED = {"": "", "lose_accepted": "lost", "never_flush": "lost"}
# What passes from one instance to another, or not.
FOUND_ON_TWO = {
    "": "",
    "drop_notifications": "follower",
    "read_stale_heads": "stale",
    "forget_keys": "doubled",
}
# How many writes a life takes at least: enough for a fault that hits one in ten.
ENOUGH = 80
# Seconds: accepted writes are flushed so often, and seen to be so late; a follower may be so late.
FLUSH_INTERVAL, MARGIN, HEARD_WITHIN = 0.2, 0.8, 2.0
PATIENCE = 60


def test_each_fault_that_can_be_planted_is_looked_for() -> None:
    assert FAULTS.keys() | {""} == FOUND_BY.keys() | FOUND_IN_BUFFERED.keys()


@pytest.mark.parametrize("fault", FOUND_BY)
async def test_the_checker_finds(fault: str, sqlite_url: str, seed: int) -> None:
    findings = await run_load(fault, sqlite_url, seed)
    assert FOUND_BY[fault] in rules(findings), findings[:20]


@pytest.mark.parametrize("fault", FOUND_ON_TWO)
async def test_the_checker_finds_on_two_instances(fault: str, postgres_url: str, seed: int) -> None:
    findings = await run_load(fault, postgres_url, seed, instances=2)
    assert FOUND_ON_TWO[fault] in rules(findings), findings[:20]


@pytest.mark.parametrize("fault", FOUND_AFTER_KILLS)
async def test_the_checker_finds_after_kills(fault: str, database_url: str, seed: int) -> None:
    # Any one kill may come between two batches.
    findings = await run_load(fault, database_url, seed, kills=4)
    assert FOUND_AFTER_KILLS[fault] in rules(findings), findings[:20]


@pytest.mark.parametrize("fault", FOUND_IN_BUFFERED)
async def test_the_checker_finds_in_buffered_mode(fault: str, sqlite_url: str, seed: int) -> None:
    # Nobody reads, and nothing is indexed: both have all that was accepted flushed.
    settings = {"SEARCH": "off"}
    findings = await run_load(
        fault, sqlite_url, seed, kills=1, settings=settings, buffered=True, readers=0, pause=0.01
    )
    assert FOUND_IN_BUFFERED[fault] in rules(findings), findings[:20]


async def run_load(
    fault: str,
    url: str,
    seed: int,
    *,
    instances: int = 1,
    kills: int = 0,
    settings: Mapping[str, str] | None = None,
    **options: Any,
) -> list[str]:
    """The findings after a load on servers with a fault."""
    env = {"DB_URL": url, "FLUSH_INTERVAL": f"{FLUSH_INTERVAL}", **(settings or {})}
    async with AsyncExitStack() as stack, asyncio.timeout(PATIENCE):
        servers = [
            await stack.enter_async_context(mortal_server(env, f"server {n}", command(fault)))
            for n in range(instances)
        ]
        targets = [server.target for server in servers]
        load = Load(targets, seed=seed, sessions=2, followers=2, patience=HEARD_WITHIN, **options)
        async with load.running():
            await load.work(ENOUGH)
            for _ in range(kills):
                await kill_and_start(servers[0], load)
                await load.work(ENOUGH)
        assert [await server.stop() for server in servers] == [0] * instances
    window = FLUSH_INTERVAL + MARGIN
    return check(
        load.journal, read_database(url), window=window, heard_within=None if kills else HEARD_WITHIN
    )


async def kill_and_start(server: MortalServer, load: Load) -> None:
    if load.buffered:
        # Long enough that what was never flushed is too old to be lost.
        await asyncio.sleep(2 * (FLUSH_INTERVAL + MARGIN))
    await server.kill(load.journal)
    await server.start()


def rules(findings: list[str]) -> set[str]:
    """Which rules found something; "" where none did."""
    return {finding.partition(":")[0] for finding in findings} or {""}
