"""Whole conversations over HTTP, message by message, on a server that lives and on one that is killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest

from tests.process.http_client import HttpClient, Json, http_client
from tests.support.conversations import Conversation, load_conversations
from tests.support.server_process import ServerProcess, run_command, start_server

AT_A_TIME = 32
PAGE = 7
# The server is killed when it has answered these parts of all writes.
KILLED_AT = (0.1, 0.35, 0.6, 0.85)
# Seconds: far more than any of this takes.
PATIENCE = 180

Post = Callable[[str, Json, str], Awaitable[Json]]


@pytest.fixture(scope="module")
def conversations() -> list[Conversation]:
    return load_conversations()


async def test_conversations_come_back_as_they_were_sent(
    database_url: str, conversations: list[Conversation]
) -> None:
    with start_server(environment(database_url)) as server:
        async with asyncio.timeout(PATIENCE), http_client(server.url) as client:
            await replay(conversations, client.post)
            await check_each(conversations, client)
        assert server.stop() == 0
        assert "Traceback" not in server.log
    check_soundness(database_url)


async def test_w5_w12_killed_and_repeated_nothing_is_lost_and_nothing_double(
    database_url: str, conversations: list[Conversation]
) -> None:
    writes = sum(1 + len(conversation.messages) for conversation in conversations)
    kill_at = [int(part * writes) for part in KILLED_AT]
    async with asyncio.timeout(PATIENCE), mortal_server(environment(database_url), kill_at) as server:
        await replay(conversations, server.post)
        assert server.kills == len(KILLED_AT)
        # The reply that brings a kill about is lost: what it answered is in, and its repeat is told so.
        assert server.client.replayed >= server.kills
        await check_each(conversations, server.client)
    check_soundness(database_url)


def environment(database_url: str) -> dict[str, str]:
    return {"DB_URL": database_url, "ACCESS_LOG": "off"}


async def replay(conversations: list[Conversation], post: Post) -> None:
    """Send every conversation: its messages one after the other, many conversations at a time."""
    await for_each(conversations, lambda conversation: send(conversation, post))


async def send(conversation: Conversation, post: Post) -> None:
    name = conversation.id
    await post("/sessions", {"session_id": name}, f"{name}/0")
    for seq, message in enumerate(conversation.messages, 1):
        reply = await post(f"/sessions/{name}/messages", message, f"{name}/{seq}")
        assert [stored["seq"] for stored in reply["messages"]] == [seq]


async def check_each(conversations: list[Conversation], client: HttpClient) -> None:
    await for_each(conversations, lambda conversation: check(conversation, client))


async def check(conversation: Conversation, client: HttpClient) -> None:
    """Read a conversation back in every way: it is what was sent, in order."""
    name, sent = conversation
    forward = await client.read_forward(name, PAGE)
    assert [message.pop("seq") for message in forward] == list(range(1, len(sent) + 1))
    times = [message.pop("timestamp") for message in forward]
    assert times == sorted(times)
    assert forward == sent
    backward = await client.read_backward(name, PAGE)
    assert [without_stamps(message) for message in backward] == sent
    history = await client.get(f"/sessions/{name}/history")
    assert history["messages"] == [in_chat_form(message) for message in sent]
    assert history["message_count"] == len(sent)


def without_stamps(message: Json) -> Json:
    return {field: value for field, value in message.items() if field not in ("seq", "timestamp")}


def in_chat_form(message: Json) -> Json:
    """What chat-completion APIs take: what a client notes down beside the message is left out."""
    return {field: value for field, value in message.items() if field not in ("token_count", "metadata")}


async def for_each(
    conversations: list[Conversation], action: Callable[[Conversation], Awaitable[None]]
) -> None:
    turns = asyncio.Semaphore(AT_A_TIME)

    async def take_turn(conversation: Conversation) -> None:
        async with turns:
            await action(conversation)

    async with asyncio.TaskGroup() as group:
        for conversation in conversations:
            group.create_task(take_turn(conversation))


def check_soundness(database_url: str) -> None:
    found = run_command("check", env={"DB_URL": database_url})
    assert found.returncode == 0, found.stdout + found.stderr


class MortalServer:
    """A server that is killed whenever it has given so many replies, and started again.

    Those replies count as lost, and so does what still comes after them: the client repeats each write
    that it has no reply to under its key.
    """

    def __init__(
        self, env: dict[str, str], kill_at: list[int], client: HttpClient, restarts: asyncio.TaskGroup
    ) -> None:
        self.client = client
        self.replies = self.kills = 0
        self._env = env
        self._kill_at = kill_at
        self._restarts = restarts
        self._running = asyncio.Event()
        self._server: ServerProcess | None = None

    async def start(self) -> None:
        self._server = ServerProcess(self._env)
        await asyncio.to_thread(self._server.wait_until_listening)
        self.client.url = self._server.url
        self._running.set()

    def kill(self) -> None:
        self._running.clear()
        if self._server is not None:
            self._server.kill()

    async def post(self, path: str, body: Json, key: str) -> Json:
        """The reply, to the first attempt or to a later one."""
        while True:
            await self._running.wait()
            kills = self.kills
            try:
                reply = await self.client.post(path, body, key)
                self._count_reply()
            except aiohttp.ClientError:
                assert self.kills > kills, "the connection broke, but nobody killed the server"
            if self.kills == kills:
                return reply

    def _count_reply(self) -> None:
        self.replies += 1
        if self.replies in self._kill_at:
            self.kills += 1
            self.kill()
            self._restarts.create_task(self.start())


@asynccontextmanager
async def mortal_server(env: dict[str, str], kill_at: list[int]) -> AsyncIterator[MortalServer]:
    """It runs, and dies for good at the end."""
    async with http_client() as client, asyncio.TaskGroup() as restarts:
        server = MortalServer(env, kill_at, client, restarts)
        try:
            await server.start()
            yield server
        finally:
            server.kill()
