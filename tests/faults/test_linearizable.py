"""One session under load answers as if one thing happened after another (W4, R2).

On Postgres from three instances, on SQLite from the one that may be there.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from tests.faults.checker import check, count
from tests.faults.conftest import Report
from tests.faults.load import Load
from tests.faults.restarted_server import mortal_server
from tests.faults.stored import find_damage, read_database

INSTANCES = {"sqlite": 1, "postgresql": 3}
# Seconds: a round, and how soon a follower of any instance hears what another has acknowledged.
ROUND, HEARD_WITHIN = 1.0, 2.0


@pytest.mark.rounds(3)
async def test_r2_w4_a_session_is_linearizable_on_all_instances(
    database_url: str, rounds: int, seed: int, report: Report
) -> None:
    instances = INSTANCES[database_url.partition(":")[0]]
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(mortal_server({"DB_URL": database_url}, f"server {n}"))
            for n in range(instances)
        ]
        targets = [server.target for server in servers]
        load = Load(targets, seed=seed, sessions=1, writers=6, readers=6, followers=instances)
        async with load.running():
            await asyncio.sleep(rounds * ROUND)
        assert [await server.stop() for server in servers] == [0] * instances
    findings = check(load.journal, read_database(database_url), heard_within=HEARD_WITHIN)
    findings += find_damage(database_url)
    report(
        seconds=rounds * ROUND,
        acknowledged=load.journal.count("acknowledged"),
        reads=len(load.journal.reads),
        heard=sum(len(following.heard) for following in load.journal.followings),
        lost=count(findings, "lost"),
        doubled=count(findings, "doubled"),
        stale=count(findings, "stale"),
    )
    assert not findings, "\n".join(findings[:20])
    # Nobody is turned away where nothing is wrong.
    assert load.journal.refusals == {}
