"""W7: the line to Postgres breaks under load in every way that lines do, and no write is doubled or wrongly
denied."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from tests.faults.conftest import Report
from tests.faults.database_trial import Trial, trial
from tests.support.tcp_proxy import Wire, lay_wire

# How often each of these befalls the line in a round.
FAULTS, RESETS = 10, 10
# So many writes are stored over a slow line.
SLOW_WRITES = 4
# Seconds: there and back together a packet takes twice the delay.
DELAY = 0.25
CUT, LONG_CUT = 2.0, 30.0


async def lose_replies_to_commit(wire: Wire, made: Trial, chance: Random, turn: int) -> None:
    """A COMMIT is lost, or only its reply is."""
    for _ in range(FAULTS):
        wire.once, wire.at_commit = True, chance.choice(("cut before", "cut after"))
        await until_done(wire)
        # Else the next fault would only meet the question whether this batch is in.
        await made.wait_for_writes(5)


async def until_done(wire: Wire) -> None:
    async with asyncio.timeout(30):
        while wire.at_commit:  # noqa: ASYNC110 - a wire has no event
            await asyncio.sleep(0.005)


async def reset(wire: Wire, made: Trial, chance: Random, turn: int) -> None:
    for _ in range(RESETS):
        # The server may just be connecting anew.
        async with asyncio.timeout(30):
            while not wire.reset():  # noqa: ASYNC110 - a wire has no event
                await asyncio.sleep(0.005)
        await asyncio.sleep(chance.uniform(0, 0.2))


async def cut(wire: Wire, made: Trial, chance: Random, turn: int) -> None:
    """Nothing passes, and nobody is told; what was on its way arrives later."""
    for seconds in (chance.uniform(0.1, CUT), LONG_CUT if turn else CUT):
        wire.cut = True
        await asyncio.sleep(seconds)
        wire.cut = False
        await made.recover()


TROUBLES: dict[str, Callable[[Wire, Trial, Random, int], Awaitable[None]]] = {
    "replies to COMMIT lost": lose_replies_to_commit,
    "resets": reset,
    "cuts": cut,
}


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_w7_over_a_bad_line_no_write_is_doubled_or_denied(
    postgres_url: str, trouble: str, rounds: int, seed: int, report: Report
) -> None:
    chance = Random(seed)
    async with lay_wire(postgres_url) as (wire, url), trial(url, postgres_url, seed, report) as made:
        for turn in range(rounds):
            await made.wait_for_writes()
            await TROUBLES[trouble](wire, made, chance, turn)
            await made.recover()


async def test_w8_over_a_slow_line_writes_take_their_time_and_are_stored(
    postgres_url: str, rounds: int, seed: int, report: Report
) -> None:
    usual = {"WRITE_TIMEOUT": "10", "POOL_TIMEOUT": "5", "COMMAND_TIMEOUT": "30"}
    async with (
        lay_wire(postgres_url) as (wire, url),
        trial(url, postgres_url, seed, report, settings=usual, timeout=20, patience=30) as made,
    ):
        for _ in range(rounds):
            await made.wait_for_writes()
            wire.delay = DELAY
            await made.wait_for_writes(SLOW_WRITES)
            wire.delay = 0.0
            await made.recover()
