"""Two servers on one Postgres: what either stored, both show, in one order and at once (R2, W4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import product

import pytest

from tests.process.http_client import Event, HttpClient, Json, http_client
from tests.support.server_process import ServerProcess

SESSIONS = ("a", "b", "c")
# To each session each of so many writers on each instance appends one or two messages at a time.
WRITERS = 2
BATCHES = (1, 2) * 10
TOTAL = 2 * WRITERS * sum(BATCHES)
# A follower that comes and goes leaves after so many messages.
STAY = 7
# Seconds: far more than any of this takes.
PATIENCE = 120


@pytest.fixture
async def instances(postgres_url: str) -> AsyncIterator[list[HttpClient]]:
    """Clients of two servers, with the sessions made."""
    env = {"DB_URL": postgres_url, "ACCESS_LOG": "off"}
    with ServerProcess(env) as first, ServerProcess(env) as second:
        async with connected(first) as one, connected(second) as other:
            for session_id in SESSIONS:
                await one.post("/sessions", {"session_id": session_id})
            yield [one, other]


@asynccontextmanager
async def connected(server: ServerProcess) -> AsyncIterator[HttpClient]:
    server.wait_until_listening()
    async with http_client(server.url) as client:
        yield client


class Acknowledged:
    """What either instance has acknowledged so far: contents by session and number."""

    def __init__(self) -> None:
        self._contents: dict[str, dict[int, str]] = {session_id: {} for session_id in SESSIONS}

    def note(self, session_id: str, reply: Json, contents: list[str]) -> None:
        for receipt, content in zip(reply["messages"], contents, strict=True):
            known = self._contents[session_id].setdefault(receipt["seq"], content)
            assert known is content, "a number was given twice"

    def of(self, session_id: str) -> dict[int, str]:
        """Of one session, as it stands now, in the order of the numbers."""
        return dict(sorted(self._contents[session_id].items()))


async def test_w4_r2_two_instances_number_and_show_as_one(instances: list[HttpClient]) -> None:
    acknowledged = Acknowledged()
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        start_writers(group, instances, acknowledged)
        for client, session_id in product(instances, SESSIONS):
            group.create_task(read_all_along(client, session_id, acknowledged))
            group.create_task(read_tails_all_along(client, session_id, acknowledged))
    for session_id in SESSIONS:
        assert list(acknowledged.of(session_id)) == list(range(1, TOTAL + 1))


async def test_r2_followers_of_both_instances_see_each_message_once(
    instances: list[HttpClient],
) -> None:
    acknowledged = Acknowledged()
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        followed = [
            (session_id, group.create_task(follow(client, session_id, stay)))
            for client, session_id, stay in product(instances, SESSIONS, (TOTAL, STAY))
        ]
        start_writers(group, instances, acknowledged)
    for session_id, task in followed:
        assert task.result() == list(acknowledged.of(session_id).items())


async def test_r2_a_follower_is_woken_by_the_other_instance(instances: list[HttpClient]) -> None:
    async with asyncio.timeout(PATIENCE):
        for here, there in (instances, instances[::-1]):
            await check_woken(here, there)


async def check_woken(here: HttpClient, there: HttpClient) -> None:
    last_seq = (await here.get("/sessions/a"))["last_seq"]
    async with here.follow("a", after=last_seq) as events:
        for text in ("one", "two"):
            await there.post("/sessions/a/messages", {"role": "user", "content": text})
            while (event := await anext(events)).name == "changed":
                pass
            # Not a comment: those come where nobody has woken the follower for long.
            assert (event.name, event.data["content"]) == ("message", text)


def start_writers(group: asyncio.TaskGroup, instances: list[HttpClient], acknowledged: Acknowledged) -> None:
    for client, session_id, writer in product(instances, SESSIONS, range(WRITERS)):
        group.create_task(write(client, session_id, writer, acknowledged))


async def write(client: HttpClient, session_id: str, writer: int, acknowledged: Acknowledged) -> None:
    for number, size in enumerate(BATCHES):
        contents = [f"{client.url} {writer} {number} {place}" for place in range(size)]
        messages = [{"role": "user", "content": content} for content in contents]
        reply = await client.post(f"/sessions/{session_id}/messages", {"messages": messages})
        acknowledged.note(session_id, reply, contents)


async def read_all_along(client: HttpClient, session_id: str, acknowledged: Acknowledged) -> None:
    """Read the whole session again and again: it is never behind what was acknowledged, nor in disorder."""
    seen = 0
    while seen < TOTAL:
        before = acknowledged.of(session_id)
        messages = await client.read_forward(session_id, limit=50)
        assert [message["seq"] for message in messages] == list(range(1, len(messages) + 1))
        contents = {message["seq"]: message["content"] for message in messages}
        assert contents.items() >= before.items()
        seen = len(messages)


async def read_tails_all_along(client: HttpClient, session_id: str, acknowledged: Acknowledged) -> None:
    """Read only the last messages and the head, which come from memory where that is up to date."""
    seen = 0
    while seen < TOTAL:
        known = max(acknowledged.of(session_id), default=0)
        page = await client.get(f"/sessions/{session_id}/messages", last=5)
        seen = page["last_seq"]
        assert seen >= known
        assert [message["seq"] for message in page["messages"]] == list(range(max(1, seen - 4), seen + 1))
        session = await client.get(f"/sessions/{session_id}")
        assert session["message_count"] == session["last_seq"] >= seen


async def follow(client: HttpClient, session_id: str, stay: int) -> list[tuple[int, str]]:
    """The number and content of every message, as heard in order; leaves now and then and resumes."""
    heard: list[tuple[int, str]] = []
    while len(heard) < TOTAL:
        async with client.follow(session_id, after=len(heard)) as events:
            for _ in range(min(stay, TOTAL - len(heard))):
                event = await next_message(events)
                assert event.id == event.data["seq"]
                heard.append((event.id, event.data["content"]))
    return heard


async def next_message(events: AsyncIterator[Event]) -> Event:
    while (event := await anext(events)).name != "message":
        pass
    return event
