"""Servers on databases of their own, and their replies, so told that those of two can be compared."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

import aiohttp

from runtime.db.connect import open_database
from runtime.models import utc_now
from runtime.store.tokens import Tokens
from tests.faults.clock import Clock
from tests.faults.route_examples import Example
from tests.support.model_server import ModelServer
from tests.support.server_process import ServerProcess
from tests.support.token_issuer import bearer

Json = Any

BEGINNING = datetime(2026, 11, 21, 12, tzinfo=UTC)
TIMEOUT = aiohttp.ClientTimeout(total=60)
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
CURSOR = re.compile(r'(?<="next_cursor":")[\w-]+')


class World(NamedTuple):
    """A server on a database of its own. `clock` is what it goes by; `tokens` are by owner."""

    http: aiohttp.ClientSession
    url: str
    database: str
    tokens: dict[str, str]
    clock: Clock

    def request(self, owner: str, method: str, path: str, **options: Any) -> Any:
        headers = {**bearer(self.tokens[owner]), **options.pop("headers", {})}
        return self.http.request(method, self.url + path, headers=headers, **options)

    async def ask(self, owner: str, method: str, path: str, body: Json = None, **headers: str) -> Json:
        """The decoded body of a reply that must be a good one."""
        async with self.request(owner, method, path, json=body, headers=headers) as reply:
            assert reply.status < 300, (method, path, await reply.text())
            return await reply.json() if reply.content_type == "application/json" else await reply.text()


@asynccontextmanager
async def world(url: str, model: ModelServer, clock: Clock, owners: Sequence[str]) -> AsyncIterator[World]:
    database = await open_database(url)
    tokens = Tokens(database, utc_now)
    texts = {owner: (await tokens.create(owner, owner=owner))[1] for owner in owners}
    await database.close()
    clock.stand(BEGINNING)
    env = {"DB_URL": url, "LLM_URL": model.url, "ACCESS_LOG": "off"}
    with ServerProcess(env, command=clock.command) as server:
        await asyncio.to_thread(server.wait_until_listening)
        async with aiohttp.ClientSession(timeout=TIMEOUT) as http:
            yield World(http, server.url, url, texts, clock)
        # What is expected is no accident: nothing failed inside.
        assert "Traceback" not in server.log
        assert server.stop() == 0


class Answer(NamedTuple):
    """All that a client sees of a reply, but for its date, with UUIDs made equal."""

    status: int
    headers: list[tuple[str, str]]
    body: str


async def send(world: World, owner: str, example: Example, number: int = 0) -> Answer:
    headers = {**example.headers, "X-Request-ID": f"request-{number}"}
    options = {"params": example.query, "headers": headers, "allow_redirects": False}
    if example.body is not None:
        options["json"] = example.body
    async with world.request(owner, example.method, example.path, **options) as reply:
        shown = sorted((name, UUID.sub("U", text)) for name, text in reply.headers.items() if name != "Date")
        return Answer(
            reply.status, shown, UUID.sub("U", CURSOR.sub(open_cursor, await body_of(reply, example)))
        )


def open_cursor(found: re.Match[str]) -> str:
    """What a cursor says: a UUID in it would not be seen."""
    return base64.urlsafe_b64decode(found[0] + "==").decode()


async def body_of(reply: aiohttp.ClientResponse, example: Example) -> str:
    if reply.content_type != "text/event-stream":
        return await reply.text()
    if example.route.path == "/sessions/{session_id}/events":
        # It is one of the stranger's own, and has no end.
        return ""
    return whole_stream(await reply.text())


def whole_stream(text: str) -> str:
    """The events without their ids, and pieces of text joined: how they are cut is chance."""
    lines = (line for line in text.splitlines() if line.startswith(("event:", "data:")))
    return re.sub(
        r'", "is_final": false}\nevent: message\ndata: {"type": "assistant_message", "token": "',
        "",
        "\n".join(lines),
    )
