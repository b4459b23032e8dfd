"""Turns whose server is killed, stopped or frozen, or whose client goes: each event is heard once."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from random import Random

import aiohttp
import pytest

from tests.process.http_client import Event, HttpClient, Json, http_client
from tests.support.model_server import model_server, says
from tests.support.server_process import ServerProcess, start_server

WORDS = 50
# Seconds between two words, and for whatever shall end at some time.
PAUSE = 0.02
PATIENCE = 60
# The moment at which a turn is broken off is drawn from each; more of them are more moments.
SEEDS = range(3)
SESSION = "a"


@contextmanager
def running_model(words: int = WORDS, pause: float = PAUSE) -> Iterator[str]:
    """The URL of a model, a process of its own, that answers `w1 w2 …`."""
    options = ("--words", str(words), "--pause", str(pause))
    with ServerProcess({}, command=(sys.executable, "-m", "tests.support.model_server", *options)) as model:
        model.wait_until_listening()
        yield model.url


@pytest.fixture(scope="module")
def model_url() -> Iterator[str]:
    with running_model() as url:
        yield url


def environment(database_url: str, model_url: str) -> dict[str, str]:
    return {"DB_URL": database_url, "LLM_URL": model_url, "ACCESS_LOG": "off", "SHUTDOWN_TIMEOUT": "10"}


def draw_moment(seed: int) -> int:
    """How many words of the answer are heard before something happens; none: the turn has just begun."""
    return Random(seed).randrange(WORDS - 10) if seed else 0


def numbered(words: int) -> str:
    """What the model says up to a word."""
    return "".join(f"w{number} " for number in range(1, words + 1))


class Listener:
    """A client that hears one turn, at whichever servers, and notes down every event."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.begun_at = 0.0

    @property
    def turn_id(self) -> str:
        turn_id: str = self.events[0].data["turn_id"]
        return turn_id

    @property
    def said(self) -> str:
        """The words that were heard as they came."""
        return "".join(event.data.get("token", "") for event in self.events)

    async def start(self, client: HttpClient, words: int = sys.maxsize) -> None:
        """Ask for the turn, and hear it until it ends or so many words are heard."""
        async with client.ask(SESSION, "Count, please.") as events:
            await self.listen(events, words)

    async def resume(self, client: HttpClient, words: int = sys.maxsize) -> None:
        """Hear the turn from behind the last event that was heard."""
        async with client.follow_turn(SESSION, self.turn_id, self.events[-1].id) as events:
            await self.listen(events, words)

    async def listen(self, events: AsyncIterator[Event], words: int = sys.maxsize) -> None:
        async for event in events:
            self.begun_at = self.begun_at or time.monotonic()
            if event.name:
                self.events.append(event)
            if words < sys.maxsize and len(self.said.split()) >= words:
                return

    def check(self, last: str, **data: Json) -> None:
        """Nothing is missing, double or out of order, and the last event says this."""
        places = [place(event) for event in self.events]
        assert places == sorted(set(places))
        assert [event.name for event in self.events] == [
            "turn",
            *["message"] * (len(self.events) - 2),
            last,
        ]
        assert self.said == numbered(len(self.said.split()))
        assert self.contents == ([self.said] if self.said else [])
        assert self.events[-1].data.items() >= data.items()

    @property
    def contents(self) -> list[str]:
        """What the events that stand for whole messages say."""
        return [event.data["content"] for event in self.events if event.data.get("content") is not None]


def place(event: Event) -> tuple[int, int]:
    """Where an event stands among those of its turn."""
    number, _, characters = event.id.partition("-")
    return int(number), int(characters or 0)


async def read_answers(client: HttpClient) -> list[Json]:
    """What the session holds of the agents."""
    messages = await client.read_forward(SESSION, limit=100)
    return [message for message in messages if message["role"] == "assistant"]


async def read_statuses(client: HttpClient) -> list[str]:
    """Of the turns, latest first."""
    return [turn["status"] for turn in (await client.get(f"/sessions/{SESSION}/turns"))["turns"]]


async def check_cut_short(client: HttpClient, heard: Listener, status: str) -> None:
    """What was heard of the first turn, no more and no less, is stored and marked."""
    assert (await read_statuses(client))[-1] == status
    if heard.said:
        answer = (await read_answers(client))[0]
        assert answer["content"] == heard.said
        assert answer["metadata"].items() >= {"turn_id": heard.turn_id, status: True}.items()


async def check_usable(client: HttpClient, heard: Listener) -> None:
    """The session takes a new turn at once, which runs to its end."""
    again = Listener()
    asked_at = time.monotonic()
    await again.start(client)
    assert again.begun_at - asked_at < 1
    again.check("done", status="completed")
    assert again.said == numbered(WORDS)
    assert [answer["content"] for answer in await read_answers(client)] == [*heard.contents, again.said]


@pytest.mark.parametrize("seed", SEEDS)
async def test_killed_in_mid_turn_nothing_that_was_heard_is_lost_or_said_twice(
    database_url: str, model_url: str, seed: int
) -> None:
    env = environment(database_url, model_url)
    heard = Listener()
    with ExitStack() as servers:
        doomed = servers.enter_context(start_server(env))
        # The file of SQLite is one process's: there it is started again.
        other = None if "sqlite" in database_url else servers.enter_context(start_server(env))
        async with asyncio.timeout(PATIENCE), http_client(doomed.url) as client:
            await hear_it_die(client, doomed, heard, draw_moment(seed))
        other = other or servers.enter_context(start_server(env))
        async with asyncio.timeout(PATIENCE), http_client(other.url) as client:
            async with asyncio.TaskGroup() as group:
                group.create_task(check_usable(client, heard))
                group.create_task(heard.resume(client))
            heard.check("error", code="turn_interrupted")
            await check_cut_short(client, heard, "interrupted")
            assert await read_statuses(client) == ["completed", "interrupted"]


async def hear_it_die(client: HttpClient, server: ServerProcess, heard: Listener, words: int) -> None:
    """Ask for a turn at a server that is killed after so many words, and hear all that still arrives."""
    async with client.ask(SESSION, "Count, please.") as events:
        await heard.listen(events, words)
        server.kill()
        with pytest.raises(aiohttp.ClientError):
            await heard.listen(events)


@pytest.fixture
def instances(postgres_url: str, model_url: str) -> Iterator[list[ServerProcess]]:
    env = environment(postgres_url, model_url)
    with start_server(env) as first, start_server(env) as second:
        yield [first, second]


async def test_a_client_that_changes_instances_gets_each_event_once(
    instances: list[ServerProcess],
) -> None:
    heard = Listener()
    async with (
        asyncio.timeout(PATIENCE),
        http_client(instances[0].url) as here,
        http_client(instances[1].url) as there,
    ):
        await heard.start(here, words=5)
        for words, client in ((12, there), (19, here), (26, there)):
            await heard.resume(client, words)
            # It is heard while it is said, also where it does not run.
            assert await read_statuses(there) == ["running"]
        await heard.resume(there)
        heard.check("done", status="completed")
        assert heard.said == numbered(WORDS)
        late = Listener()
        late.events.append(heard.events[0])
        await late.resume(there)
        late.check("done", status="completed")
        assert late.said == heard.said


async def test_a_stop_is_asked_for_at_another_instance(instances: list[ServerProcess]) -> None:
    heard = Listener()
    async with (
        asyncio.timeout(PATIENCE),
        http_client(instances[0].url) as here,
        http_client(instances[1].url) as there,
        here.ask(SESSION, "Count, please.") as events,
    ):
        await heard.listen(events, words=5)
        asked_at = time.monotonic()
        await there.post(f"/sessions/{SESSION}/turns/{heard.turn_id}/stop", None)
        await heard.listen(events)
        assert time.monotonic() - asked_at < 1
        heard.check("done", status="stopped")
        assert heard.said != numbered(WORDS)
        await check_cut_short(there, heard, "stopped")
        await check_usable(there, heard)


@pytest.mark.parametrize("seed", SEEDS[1:2])
async def test_w11_a_server_that_is_stopped_stores_what_was_said(
    database_url: str, model_url: str, seed: int
) -> None:
    env = environment(database_url, model_url)
    heard = Listener()
    with start_server(env) as server:
        async with (
            asyncio.timeout(PATIENCE),
            http_client(server.url) as client,
            client.ask(SESSION, "Count, please.") as events,
        ):
            await heard.listen(events, draw_moment(seed))
            asked_at = time.monotonic()
            server.send(signal.SIGTERM)
            await heard.listen(events)
            heard.check("error", code="turn_interrupted")
        assert await asyncio.to_thread(server.wait) == 0
        assert time.monotonic() - asked_at < float(env["SHUTDOWN_TIMEOUT"])
        assert "Traceback" not in server.log
    with start_server(env) as server:
        async with asyncio.timeout(PATIENCE), http_client(server.url) as client:
            await check_cut_short(client, heard, "interrupted")
            await check_usable(client, heard)


# About twenty seconds: the lease of a turn is to pass, and nothing shortens it.
async def test_a_frozen_instance_stores_nothing_of_a_turn_it_lost(postgres_url: str, model_url: str) -> None:
    heard, again = Listener(), Listener()
    with (
        running_model(words=1000, pause=0.3) as slow_model_url,
        start_server(environment(postgres_url, slow_model_url)) as frozen,
        start_server(environment(postgres_url, model_url)) as other,
    ):
        async with (
            asyncio.timeout(PATIENCE),
            http_client(frozen.url) as here,
            http_client(other.url) as there,
        ):
            await heard.start(here, words=3)
            frozen.send(signal.SIGSTOP)
            try:
                await heard.resume(there)
                await again.start(there)
            finally:
                frozen.send(signal.SIGCONT)
            await asyncio.to_thread(frozen.wait_for, f"turn {heard.turn_id} cannot be carried on")
            heard.check("error", code="turn_interrupted")
            again.check("done", status="completed")
            for client in (here, there):
                await check_cut_short(client, heard, "interrupted")
                assert await read_statuses(client) == ["completed", "interrupted"]
                answers = await read_answers(client)
                assert [answer["content"] for answer in answers] == [heard.said, again.said]


async def test_a_reader_that_reads_nothing_holds_up_no_other(database_url: str) -> None:
    # More than the sockets and buffers between server and reader hold.
    words = [f"w{number} " + "😀" * 990 for number in range(1, 901)]
    heard, slow = Listener(), Listener()
    async with model_server([says(*words, pause=0.001)]) as model:
        with start_server(environment(database_url, model.url)) as server:
            async with (
                asyncio.timeout(PATIENCE),
                http_client(server.url) as client,
                http_client(server.url, takes=4096) as reluctant,
                reluctant.ask(SESSION, "Count, please.") as unread,
            ):
                slow.events.append(await anext(unread))
                heard.events += slow.events
                await heard.resume(client)
                assert heard.said == "".join(words)
                # The other one still waits for its reader.
                assert await client.read_metric("sse_streams") == 1
                await slow.listen(unread)
                assert slow.said == heard.said
                assert slow.events[-1] == heard.events[-1]
            assert "cannot be carried on" not in server.log
