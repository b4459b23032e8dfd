"""Servers in buffered mode that are killed under load: what is lost is new (W5)."""

from __future__ import annotations

from random import Random
from statistics import median

import pytest

from tests.faults.checker import check, count
from tests.faults.conftest import Report
from tests.faults.evidence import Evidence
from tests.faults.journal import Journal
from tests.faults.load import Load
from tests.faults.restarted_server import mortal_server
from tests.faults.stored import Stored, find_damage, read_database
from tests.faults.test_kill import LONGEST_START, kill_often

# Seconds: how often a flush is due, and what a busy machine may add to that: to wake, to write, to commit.
FLUSH_INTERVAL, MARGIN = 0.2, 0.8


@pytest.mark.rounds(5)
async def test_w5_a_kill_in_buffered_mode_loses_only_the_newest_writes(
    database_url: str, rounds: int, seed: int, report: Report
) -> None:
    env = {"DB_URL": database_url, "FLUSH_INTERVAL": str(FLUSH_INTERVAL)}
    async with mortal_server(env) as server:
        # Whoever reads has everything flushed: nobody does.
        load = Load([server.target], seed=seed, buffered=True, readers=0, pause=0.005)
        async with load.running():
            await kill_often(server, load, rounds, Random(seed))
        assert await server.stop() == 0
    stored = read_database(database_url)
    findings = check(load.journal, stored, window=FLUSH_INTERVAL + MARGIN) + find_damage(database_url)
    ages = ages_of_lost(load.journal, stored)
    report(
        rounds=rounds,
        accepted=load.journal.count("accepted"),
        lost_in_window=len(ages),
        oldest_lost_s=max(ages, default=0.0),
        lost_beyond=count(findings, "lost"),
        doubled=count(findings, "doubled"),
        usual_start_s=median(server.starts),
        slowest_start_s=max(server.starts),
    )
    assert not findings, "\n".join(findings[:20])
    assert ages, "nothing was ever lost: the kills came at no bad moment, and prove nothing"
    assert max(server.starts) < LONGEST_START


@pytest.mark.rounds(3)
async def test_w6_killed_in_buffered_mode_nothing_that_was_read_is_lost(
    database_url: str, rounds: int, seed: int
) -> None:
    async with mortal_server({"DB_URL": database_url, "FLUSH_INTERVAL": "60"}) as server:
        load = Load([server.target], seed=seed, buffered=True, readers=1, pause=0.01)
        async with load.running():
            await kill_often(server, load, rounds, Random(seed))
        assert await server.stop() == 0
    findings = check(load.journal, read_database(database_url), window=60 + MARGIN)
    assert not findings, "\n".join(findings[:20])


def ages_of_lost(journal: Journal, stored: Stored) -> list[float]:
    """How long before the kill of its server each write that is lost had been accepted."""
    evidence = Evidence(journal, stored)
    return [
        journal.kills[write.life] - write.ended
        for write in journal.writes
        if write.fate == "accepted" and not evidence.is_stored(write)
    ]
