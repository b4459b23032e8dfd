"""Servers that are killed at random moments under load, again and again, on the same database (W5)."""

from __future__ import annotations

import asyncio
from random import Random
from statistics import median

import pytest

from tests.faults.checker import check, count
from tests.faults.conftest import Report
from tests.faults.load import Load
from tests.faults.restarted_server import MortalServer, mortal_server
from tests.faults.stored import find_damage, read_database

# A server is killed after at most so many writes, and then so many seconds; it starts in so many. Alone
# on a machine that takes less than one, beside all of these tests up to ten.
MOST_WRITES, LONGEST_WAIT = 100, 0.05
LONGEST_START = 30.0
PATIENCE = 60


@pytest.mark.rounds(20)
async def test_w5_killed_under_load_nothing_acknowledged_is_lost_or_doubled(
    database_url: str, rounds: int, seed: int, report: Report
) -> None:
    async with mortal_server({"DB_URL": database_url}) as server:
        load = Load([server.target], seed=seed)
        async with load.running():
            await kill_often(server, load, rounds, Random(seed))
        assert await server.stop() == 0
    findings = check(load.journal, read_database(database_url)) + find_damage(database_url)
    report(
        rounds=rounds,
        acknowledged=load.journal.count("acknowledged"),
        unknown=load.journal.count("unknown"),
        lost=count(findings, "lost"),
        doubled=count(findings, "doubled"),
        usual_start_s=median(server.starts),
        slowest_start_s=max(server.starts),
    )
    assert not findings, "\n".join(findings[:20])
    assert max(server.starts) < LONGEST_START


async def kill_often(server: MortalServer, load: Load, rounds: int, chance: Random) -> None:
    """Each life ends at a random moment, the first ones of it included."""
    for _ in range(rounds):
        async with asyncio.timeout(PATIENCE):
            await load.work(chance.randint(0, MOST_WRITES))
            await asyncio.sleep(chance.uniform(0, LONGEST_WAIT))
            await server.kill(load.journal)
            await server.start()
