"""What a client program does with a server process: writes under a key, pages, follows sessions and turns."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
from aiohttp.connector import AddrInfoType

Json = Any

TIMEOUT = aiohttp.ClientTimeout(total=60)


class Event(NamedTuple):
    """A server-sent event. A comment has no name.

    In a session the id of a `message` is its sequence number; in a turn it is a text such as `3-17`.
    """

    name: str
    id: Any
    data: Json


class Refused(AssertionError):
    """The server refuses to do what it is asked; `code` says why."""

    def __init__(self, status: int, problem: Json) -> None:
        super().__init__(status, problem)
        self.status = status
        self.code: str = problem["code"]


class HttpClient:
    """A client of one server. A reply that refuses is an AssertionError that shows it."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self.url = url
        # How many replies said that they answer a repeat.
        self.replayed = 0

    async def get(self, path: str, **query: int) -> Json:
        """The decoded body of a reply."""
        async with self._http.get(self.url + path, params=query) as reply:
            return await _checked(reply)

    async def post(self, path: str, body: Json, key: str | None = None) -> Json:
        """The same for a write, under an Idempotency-Key where one is given."""
        headers = {"Idempotency-Key": key} if key else {}
        async with self._http.post(self.url + path, json=body, headers=headers) as reply:
            self.replayed += "Idempotent-Replayed" in reply.headers
            return await _checked(reply)

    async def read_metric(self, name: str) -> float:
        """The value of a metric of ours that has no labels."""
        async with self._http.get(self.url + "/metrics") as reply:
            lines = (await reply.text()).splitlines()
        prefix = f"agent_runtime_{name} "
        return next(float(line.removeprefix(prefix)) for line in lines if line.startswith(prefix))

    async def read_forward(self, session_id: str, limit: int) -> list[Json]:
        """The messages of a session, page by page from the first."""
        messages: list[Json] = []
        after: int | None = 0
        while after is not None:
            page = await self.get(f"/sessions/{session_id}/messages", after=after, limit=limit)
            assert len(page["messages"]) <= limit
            messages += page["messages"]
            after = page["next_after"]
        return messages

    async def read_backward(self, session_id: str, limit: int) -> list[Json]:
        """The same, page by page from the last; the oldest message stands first again."""
        page = await self.get(f"/sessions/{session_id}/messages", last=limit)
        messages: list[Json] = page["messages"]
        while (before := page["next_before"]) is not None:
            page = await self.get(f"/sessions/{session_id}/messages", before=before, limit=limit)
            assert len(page["messages"]) <= limit
            messages = page["messages"] + messages
        return messages

    @asynccontextmanager
    async def follow(self, session_id: str, after: int) -> AsyncIterator[AsyncIterator[Event]]:
        """The events of a session behind a message, resumed from its number."""
        headers = {"Last-Event-ID": str(after)}
        async with self._http.get(f"{self.url}/sessions/{session_id}/events", headers=headers) as reply:
            assert reply.status == 200, await reply.text()
            yield _events(reply, int)

    @asynccontextmanager
    async def ask(self, session_id: str, message: Json) -> AsyncIterator[AsyncIterator[Event]]:
        """The events of a turn that a message starts; a text is something that the user says."""
        said = {"type": "user_message", "content": message} if isinstance(message, str) else message
        body = {"session_id": session_id, "message": said}
        async with self._http.post(self.url + "/agent/message/stream", json=body) as reply:
            if reply.status != 200:
                raise Refused(reply.status, await reply.json())
            yield _events(reply, str)

    @asynccontextmanager
    async def follow_turn(
        self, session_id: str, turn_id: str, after: str
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """The events of a turn behind one of them, which is named by its id."""
        path = f"{self.url}/sessions/{session_id}/turns/{turn_id}/events"
        async with self._http.get(path, headers={"Last-Event-ID": after}) as reply:
            assert reply.status == 200, await reply.text()
            yield _events(reply, str)


@asynccontextmanager
async def http_client(url: str = "", *, takes: int | None = None) -> AsyncIterator[HttpClient]:
    """A client with as many connections as it asks for at a time.

    With `takes` each holds about as few bytes of what nobody reads.
    """

    def make(address: AddrInfoType) -> socket.socket:
        made = socket.socket(*address[:3])
        if takes is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, takes)
        return made

    connector = aiohttp.TCPConnector(limit=0, socket_factory=make)
    async with aiohttp.ClientSession(connector=connector, timeout=TIMEOUT) as http:
        yield HttpClient(http, url)


async def _checked(reply: aiohttp.ClientResponse) -> Json:
    text = await reply.text()
    if reply.status not in (200, 201, 202):
        raise Refused(reply.status, json.loads(text))
    return json.loads(text)


async def _events(
    reply: aiohttp.ClientResponse, parse_id: Callable[[str], int | str]
) -> AsyncIterator[Event]:
    received = b""
    async for piece in reply.content.iter_any():
        *events, received = (received + piece).split(b"\n\n")
        for event in events:
            yield _parse(event.decode(), parse_id)


def _parse(event: str, parse_id: Callable[[str], int | str]) -> Event:
    parts = (line.partition(":") for line in event.split("\n"))
    fields = {name: value.removeprefix(" ") for name, _, value in parts}
    id = parse_id(fields["id"]) if "id" in fields else None
    return Event(fields.get("event", ""), id, json.loads(fields.get("data", "null")))
