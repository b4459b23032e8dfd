"""R2: what notifies the followers on another instance is lost, and they miss nothing, and not for long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import NamedTuple

import psycopg
import pytest

from tests.faults.conftest import Report
from tests.faults.paced_server import paced
from tests.process.http_client import Event, HttpClient, http_client
from tests.support.model_server import model_server, says
from tests.support.server_process import ServerProcess
from tests.support.tcp_proxy import Wire, lay_wire

# Seconds: after so much quiet a follower looks for itself; so often a listener asks whether its line lives,
# and so long it waits for the answer. In the usual run, with one round, all three are scaled.
LOOK, HEARTBEAT, HEARTBEAT_TIMEOUT = 15.0, 10.0, 5.0
SCALE = 0.1
# Seconds, on a busy machine, for all else.
MARGIN = 2.0
TIMES = 3
TERMINATE = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid() AND query ~ '^LISTEN'
"""

Events = AsyncIterator[Event]
Act = Callable[[int], Awaitable[object]]


class Pair(NamedTuple):
    """Two instances: what `writer` stores is followed at `reader`, whose line to Postgres is `wire`.

    `speak` lets the model that `writer` asks say its next word.
    """

    url: str
    wire: Wire
    writer: HttpClient
    reader: HttpClient
    speak: Callable[[], None]


@pytest.fixture
def scale(rounds: int) -> float:
    return SCALE if rounds == 1 else 1.0


@pytest.fixture
async def pair(postgres_url: str, scale: float) -> AsyncIterator[Pair]:
    gate = asyncio.Semaphore(0)
    words = says(*(f"{n} " for n in range(TIMES + 1)), gate=gate)
    async with model_server(lambda _: words) as model, lay_wire(postgres_url) as (wire, url):
        env = {"ACCESS_LOG": "off", "LLM_URL": model.url}
        async with paced_server(env, postgres_url, scale) as writer, paced_server(env, url, scale) as reader:
            yield Pair(postgres_url, wire, writer, reader, gate.release)


@asynccontextmanager
async def paced_server(env: dict[str, str], url: str, scale: float) -> AsyncIterator[HttpClient]:
    command = paced(heartbeat=LOOK * scale, listening=scale)
    with ServerProcess({**env, "DB_URL": url}, command=command) as server:
        await asyncio.to_thread(server.wait_until_listening)
        async with http_client(server.url) as client:
            yield client


@asynccontextmanager
async def followed_session(pair: Pair) -> AsyncIterator[tuple[Act, Events]]:
    """A message is appended there, and heard here."""
    await pair.writer.post("/sessions", {"session_id": "s"})

    async def append(n: int) -> None:
        await pair.writer.post("/sessions/s/messages", {"role": "user", "content": f"{n} "})

    async with pair.reader.follow("s", after=0) as events:
        yield append, events


@asynccontextmanager
async def followed_turn(pair: Pair) -> AsyncIterator[tuple[Act, Events]]:
    """A word is said there, and heard here."""

    async def say(n: int) -> None:
        pair.speak()

    async with pair.writer.ask("s", "Count.") as asked:
        turn_id = (await anext(asked)).data["turn_id"]
        async with pair.reader.follow_turn("s", turn_id, after="0-0") as events:
            yield say, events


FOLLOWED: dict[str, Callable[[Pair], AbstractAsyncContextManager[tuple[Act, Events]]]] = {
    "session": followed_session,
    "turn": followed_turn,
}


async def terminate(pair: Pair) -> None:
    """The connections of both that listen are ended."""
    with psycopg.connect(pair.url, autocommit=True) as admin:
        await retry_until_available(lambda: admin.execute(TERMINATE).rowcount)


async def mute(pair: Pair) -> None:
    """Every notification is lost without a trace."""
    pair.wire.mute = True


async def deafen(pair: Pair) -> None:
    """The line that listens is dead, and nobody is told."""
    await retry_until_available(pair.wire.deafen)


async def retry_until_available(attempt: Callable[[], int]) -> None:
    """Until there was a listener."""
    async with asyncio.timeout(60):
        while not attempt():  # noqa: ASYNC110 - a database has no event
            await asyncio.sleep(0.01)


# What happens to notifications, and within how many seconds they are made good for, unscaled.
TROUBLES: dict[str, tuple[Callable[[Pair], Awaitable[None]], float]] = {
    "listeners terminated": (terminate, 0.0),
    "notifications swallowed": (mute, LOOK),
    "listener deaf": (deafen, min(LOOK, HEARTBEAT + HEARTBEAT_TIMEOUT)),
}


@pytest.mark.parametrize("followed", FOLLOWED)
@pytest.mark.parametrize("trouble", TROUBLES)
async def test_r2_followers_on_another_instance_miss_nothing_and_hear_it_soon(
    pair: Pair, followed: str, trouble: str, scale: float, report: Report
) -> None:
    befall, seconds = TROUBLES[trouble]
    bound = seconds * scale + MARGIN
    delays = []
    async with FOLLOWED[followed](pair) as (act, events):
        for n in range(TIMES):
            await befall(pair)
            began = time.monotonic()
            await act(n)
            async with asyncio.timeout(bound + 60):
                assert await next_text(events) == f"{n} "
            delays.append(time.monotonic() - began)
    assert bool(pair.wire.muted) is (trouble == "notifications swallowed")
    report(longest_delay_s=max(delays), bound_s=bound)
    assert max(delays) < bound


async def next_text(events: Events) -> str:
    """What is said next: the content of a message, or a word of a turn."""
    async for event in events:
        if event.name == "message":
            text: str = event.data.get("content") or event.data["token"]
            return text
    raise AssertionError("the stream has ended")
