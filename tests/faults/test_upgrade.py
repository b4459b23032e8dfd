"""The schema changes under servers that work: up from the previous release's, back, and up again.

The last two migrations are those that the previous release does not have. No request fails that a repeat does
not heal, and nothing is lost, doubled or changed.
"""

from __future__ import annotations

import asyncio
import time
from itertools import cycle, islice

import psycopg
import pytest

from tests.faults.checker import check, count
from tests.faults.conftest import Report
from tests.faults.load import Load
from tests.faults.mortal import mortal_server
from tests.faults.stored import Stored, find_damage, read_database
from tests.server_process import run_command

SETTINGS = {"POOL_MAX": "5"}
# Writes that are stored before each step and after it, and seconds in which they must be.
WRITES, PATIENCE = 60, 30.0
# What a migration may do to a table that is in use, and takes back.
CHANGES = (
    "ALTER TABLE messages ADD COLUMN hot integer",
    "ALTER TABLE sessions ADD COLUMN hot text NOT NULL DEFAULT 'x'",
    "ALTER TABLE agent_contexts ADD COLUMN hot json",
    "CREATE INDEX hot ON messages (timestamp)",
    "DROP INDEX hot",
    "ALTER TABLE messages DROP COLUMN hot",
    "ALTER TABLE sessions DROP COLUMN hot",
    "ALTER TABLE agent_contexts DROP COLUMN hot",
    # The results of statements that are prepared change their type.
    "ALTER TABLE sessions ALTER COLUMN token_total TYPE integer, ALTER COLUMN message_count TYPE integer",
    "ALTER TABLE sessions ALTER COLUMN token_total TYPE bigint, ALTER COLUMN message_count TYPE bigint",
)


def migrate(url: str, *options: str) -> str:
    """Run the command; what it printed."""
    done = run_command("migrate", *options, env={"DB_URL": url})
    assert done.returncode == 0, done.stderr
    return done.stdout


async def go_on(load: Load) -> float:
    """Wait until more is stored; the seconds until the first was."""
    began, stored = time.monotonic(), load.stored
    first = 0.0
    async with asyncio.timeout(PATIENCE):
        while load.stored < stored + WRITES:
            await asyncio.sleep(0.01)
            first = first or (time.monotonic() - began if load.stored > stored else 0.0)
    return first


def assess(load: Load, url: str, report: Report, pauses: list[float]) -> None:
    """Nothing may be lost, doubled or hung, and no request failed for good."""
    findings = check(load.journal, read_database(url)) + find_damage(url)
    report(
        acknowledged=load.journal.count("acknowledged"),
        refusals=sum(load.journal.refusals.values()),
        lost=count(findings, "lost"),
        doubled=count(findings, "doubled"),
        longest_pause_s=max(pauses),
    )
    assert not findings, "\n".join(findings[:20])


async def converse(url: str, seed: int) -> tuple[Load, Stored]:
    """A load that was there before: what it left is the data of the previous release."""
    async with mortal_server({"DB_URL": url, **SETTINGS}) as server:
        load = Load([server.target], seed=seed)
        async with load.running():
            await go_on(load)
        assert await server.stop() == 0
    return load, read_database(url)


async def test_the_previous_schema_with_data_comes_up_and_back_unchanged(database_url: str, seed: int):
    load, before = await converse(database_url, seed)
    assert "rolled back: 0005" in migrate(database_url, "--rollback", "3")
    assert "pending: 0005" in run_command("migrate", "--check", env={"DB_URL": database_url}).stdout
    assert read_database(database_url) == before
    assert "applied: 0006" in migrate(database_url)
    assert read_database(database_url) == before
    assert not check(load.journal, before) + find_damage(database_url)


@pytest.mark.rounds(1)
async def test_stopped_upgraded_and_started_again_under_load(
    database_url: str, rounds: int, seed: int, report: Report
):
    """As on SQLite it has to be: clients wait, come back, and find everything."""
    pauses = []
    async with mortal_server({"DB_URL": database_url, **SETTINGS}) as server:
        load = Load([server.target], seed=seed)
        async with load.running():
            for _ in range(rounds):
                await go_on(load)
                server.target.move("")
                assert await server.stop() == 0
                await asyncio.to_thread(migrate, database_url, "--rollback", "3")
                began = time.monotonic()
                await server.start()
                assert "applied migration 0006" in server.process.log
                pauses.append(time.monotonic() - began + await go_on(load))
        assert await server.stop() == 0
    assess(load, database_url, report, pauses)


@pytest.mark.rounds(1)
async def test_instances_outlive_a_rollback_and_the_upgrade_after_it(
    postgres_url: str, rounds: int, seed: int, report: Report
):
    """One stays, and can do little with the old schema, until the other comes back and migrates."""
    env = {"DB_URL": postgres_url, **SETTINGS}
    pauses = []
    async with mortal_server(env, "a") as a, mortal_server(env, "b") as b:
        load = Load([a.target, b.target], seed=seed)
        async with load.running():
            for leaving in islice(cycle((a, b)), 2 * rounds):
                await go_on(load)
                # Who asks it now is told that nobody listens, and asks the other one next.
                assert await leaving.stop() == 0
                await asyncio.to_thread(migrate, postgres_url, "--rollback", "3")
                await leaving.start()
                assert "applied migration 0006" in leaving.process.log
                pauses.append(await go_on(load))
        assert await a.stop() == 0
        assert await b.stop() == 0
        assert "Traceback" not in a.process.log + b.process.log
    assess(load, postgres_url, report, pauses)


@pytest.mark.rounds(1)
async def test_hot_tables_are_altered_under_load(postgres_url: str, rounds: int, seed: int, report: Report):
    """Statements that were prepared before go stale in both instances, and are prepared anew."""
    env = {"DB_URL": postgres_url, **SETTINGS}
    pauses = []
    async with mortal_server(env, "a") as a, mortal_server(env, "b") as b:
        load = Load([a.target, b.target], seed=seed)
        async with load.running():
            for _ in range(rounds):
                for change in CHANGES:
                    await go_on(load)
                    await asyncio.to_thread(alter, postgres_url, change)
                    pauses.append(await go_on(load))
        assert await a.stop() == 0
        assert await b.stop() == 0
        assert "Traceback" not in a.process.log + b.process.log
    assess(load, postgres_url, report, pauses)
    # The servers try again by themselves: nobody notices.
    assert not load.journal.refusals


def alter(url: str, change: str) -> None:
    """As a careful migration does it: not to wait long for its lock, since all others wait behind it."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET lock_timeout = '2s'")
        while True:
            try:
                connection.execute(change)
                return
            except psycopg.errors.LockNotAvailable:
                continue
