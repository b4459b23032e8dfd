"""Postgres goes away in every way that it can, under load, and comes back (W7, W8)."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from signal import SIGINT, SIGQUIT
from typing import Any

import psycopg
import pytest

from tests.faults.conftest import Report
from tests.faults.database_trial import ANSWERED_WITHIN, Trial, trial
from tests.faults.own_postgres import OwnPostgres, run_own_postgres

# Seconds: longer than anybody may wait; and with --rounds the last one.
OUTAGE, LONG_OUTAGE = ANSWERED_WITHIN + 0.5, 60.0

Outage = Callable[[OwnPostgres], AbstractContextManager[Any]]


@contextmanager
def stopped(postgres: OwnPostgres) -> Iterator[None]:
    """As `pg_ctl stop -m immediate` does it."""
    postgres.stop(SIGQUIT)
    yield
    postgres.start()


@contextmanager
def killed(postgres: OwnPostgres) -> Iterator[None]:
    postgres.kill()
    yield
    postgres.start()


@contextmanager
def locked(postgres: OwnPostgres) -> Iterator[None]:
    """Every statement waits for somebody else, with all connections of the server's own pool."""
    with psycopg.connect(postgres.url) as other:
        other.execute("LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE")
        yield


# What lasts, and what readiness says meanwhile.
OUTAGES: dict[str, tuple[Outage, str]] = {
    "stopped": (stopped, "No such file|refused|starting up|shutting down|closed|terminat"),
    "killed": (killed, "No such file|refused|closed|starting up|recovery"),
    "frozen": (OwnPostgres.frozen, "no answer|no connection|temporarily unavailable"),
    "read-only": (OwnPostgres.read_only, "read-only"),
    "out of connections": (OwnPostgres.full, "too many clients|remaining connection slots"),
    "locked": (locked, "no connection|no answer|waited|waits"),
}
# What is over at once.
BLOWS: dict[str, Callable[[OwnPostgres], object]] = {
    "restarted at once": lambda postgres: (postgres.stop(SIGQUIT), postgres.start()),
    "restarted in order": lambda postgres: (postgres.stop(SIGINT), postgres.start()),
    "killed and started": lambda postgres: (postgres.kill(), postgres.start()),
    "connections terminated": OwnPostgres.terminate,
}


@asynccontextmanager
async def postgres_trial(seed: int, report: Report) -> AsyncIterator[tuple[OwnPostgres, Trial]]:
    with run_own_postgres("max_connections=30") as postgres:
        async with trial(postgres.url, postgres.url, seed, report) as made:
            yield postgres, made


@pytest.mark.parametrize("outage", OUTAGES)
async def test_w8_requests_are_answered_while_postgres_is_away(
    outage: str, rounds: int, seed: int, report: Report
) -> None:
    begin, symptom = OUTAGES[outage]
    async with postgres_trial(seed, report) as (postgres, made):
        for n in range(rounds):
            await made.wait_for_writes()
            async with in_a_thread(begin(postgres)):
                await check_outage(made, symptom, LONG_OUTAGE if n and n == rounds - 1 else OUTAGE)
            await made.recover()


async def check_outage(made: Trial, symptom: str, seconds: float) -> None:
    """The process lives, and says what is wrong; not at once, but within a few seconds."""
    end = time.monotonic() + seconds
    said = ""
    while time.monotonic() < end or not re.search(symptom, said):
        assert (await made.get("/health"))[0] == 200
        status, body = await made.get("/health/ready")
        said = str(body) if status == 503 else ""
        assert time.monotonic() < end + ANSWERED_WITHIN, (status, body)
        await asyncio.sleep(0.05)


@asynccontextmanager
async def in_a_thread(context: AbstractContextManager[Any]) -> AsyncIterator[None]:
    """What takes its time is not to hold up the load."""
    await asyncio.to_thread(context.__enter__)
    try:
        yield
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)


@pytest.mark.rounds(1)
@pytest.mark.parametrize("blow", BLOWS)
async def test_w7_what_hits_postgres_under_load_loses_and_doubles_nothing(
    blow: str, rounds: int, seed: int, report: Report
) -> None:
    async with postgres_trial(seed, report) as (postgres, made):
        for _ in range(rounds):
            await made.wait_for_writes()
            await asyncio.to_thread(BLOWS[blow], postgres)
            await made.recover()
