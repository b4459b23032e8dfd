"""What a client program does with a server process: writes under a key, pages, follows a session."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp

Json = Any

TIMEOUT = aiohttp.ClientTimeout(total=60)


class Event(NamedTuple):
    """A server-sent event; the id of a `message` is its sequence number. A comment has no name."""

    name: str
    id: int | None
    data: Json


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
            yield _events(reply)


@asynccontextmanager
async def http_client(url: str = "") -> AsyncIterator[HttpClient]:
    """A client with as many connections as it asks for at a time."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=TIMEOUT) as http:
        yield HttpClient(http, url)


async def _checked(reply: aiohttp.ClientResponse) -> Json:
    text = await reply.text()
    assert reply.status in (200, 201), text
    return json.loads(text)


async def _events(reply: aiohttp.ClientResponse) -> AsyncIterator[Event]:
    fields: dict[str, str] = {}
    while line := (await reply.content.readline()).decode():
        name, _, value = line.rstrip("\n").partition(":")
        if line != "\n":
            fields[name] = value.removeprefix(" ")
            continue
        id = int(fields["id"]) if "id" in fields else None
        yield Event(fields.get("event", ""), id, json.loads(fields.get("data", "null")))
        fields = {}
