"""Turns over HTTP: asked for, and heard to their end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from typing import Any, NamedTuple

from aiohttp import ClientResponse
from aiohttp.client import _RequestContextManager

from runtime.agents.model import ToolCall
from tests.support.api_server import Client, Json, check, serving
from tests.support.event_readers import LONG, next_event
from tests.support.model_server import ModelServer, Script, model_server

STREAM = "/agent/message/stream"


class Event(NamedTuple):
    """An event of a turn."""

    id: str
    name: str
    data: Json


@asynccontextmanager
async def talking(url: str, script: Script, **settings: Any) -> AsyncIterator[tuple[Client, ModelServer]]:
    """A client of a server whose model says what the script has, and that model."""
    async with model_server(script) as model:
        settings = {"llm_url": model.url, "llm_retries": 0, **settings}
        async with serving(url, **settings) as client:
            yield client, model


def user(content: Json) -> Json:
    return {"type": "user_message", "content": content}


def result(call_id: str, result: Json, **more: Json) -> Json:
    return {"type": "tool_result", "call_id": call_id, "result": result, **more}


def decision(call_id: str, decision: str, **more: Json) -> Json:
    return {"type": "hitl_decision", "call_id": call_id, "decision": decision, **more}


def call(call_id: str, name: str, **arguments: Json) -> ToolCall:
    """A call as a model makes it."""
    return ToolCall(call_id, name, json.dumps(arguments))


def begin(client: Client, message: Json, session_id: str = "s", **headers: str) -> _RequestContextManager:
    """The request that begins a turn. The names of headers are written with `_` for `-`."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post(STREAM, json={"session_id": session_id, "message": message}, headers=sent)


def follow(client: Client, turn_id: str, after: str | None = None) -> _RequestContextManager:
    """The request that goes on with the events of a turn."""
    headers = {} if after is None else {"Last-Event-ID": after}
    return client.get(f"/sessions/s/turns/{turn_id}/events", headers=headers)


async def read_event(stream: ClientResponse) -> Event:
    """The next event, which must be there."""
    fields = await next_event(stream)
    assert set(fields) == {"id", "event", "data"}, fields
    return Event(fields["id"], fields["event"], fields["data"])


async def read_until(stream: ClientResponse, token: str) -> list[Event]:
    """The events up to the piece of text that ends like this."""
    events = [await read_event(stream)]
    while not events[-1].data.get("token", "").endswith(token):
        events.append(await read_event(stream))
    return events


async def read_all(stream: ClientResponse) -> list[Event]:
    """The events up to the end of the stream, which is the turn's. Comments are left out."""
    assert stream.status == 200, await stream.text()
    assert stream.content_type == "text/event-stream"
    async with asyncio.timeout(LONG):
        whole = (await stream.read()).decode()
    *blocks, rest = whole.split("\n\n")
    assert rest == ""
    return [_parse(block) for block in blocks if not block.startswith(":")]


def _parse(block: str) -> Event:
    id, name, data = block.split("\n")
    assert (id[:4], name[:7], data[:6]) == ("id: ", "event: ", "data: ")
    return Event(id[4:], name[7:], json.loads(data[6:]))


async def ask(client: Client, message: Json, session_id: str = "s", **headers: str) -> list[Event]:
    """The events of a whole turn."""
    async with begin(client, message, session_id, **headers) as stream:
        return await read_all(stream)


async def fails(client: Client, message: Json, code: str) -> list[Event]:
    """The events of a turn that must fail like this."""
    events = await ask(client, message)
    last = events[-1]
    assert last.name == "error", last
    assert set(last.data) == {"type", "error", "code", "is_final"}
    assert (last.data["type"], last.data["code"], last.data["is_final"]) == ("error", code, True)
    assert last.data["error"]
    [turn] = await turns(client, "?limit=1")
    assert (turn["status"], turn["error"]) == ("failed", last.data["error"])
    return events


async def turns(client: Client, query: str = "") -> list[Json]:
    """The turns of the session, latest first."""
    found = await check(await client.get(f"/sessions/s/turns{query}"))
    return list(found["turns"])


async def messages(client: Client) -> list[Json]:
    """The stored messages, without what the server adds to them."""
    page = await check(await client.get("/sessions/s/messages?limit=1000"))
    return [
        {k: v for k, v in message.items() if k not in ("seq", "timestamp")} for message in page["messages"]
    ]


def turn_id(events: Sequence[Event]) -> str:
    """The id of the turn, which its first event tells."""
    assert (events[0].id, events[0].name, set(events[0].data)) == ("1", "turn", {"turn_id"})
    return str(events[0].data["turn_id"])


def spoken(events: Sequence[Event]) -> str:
    """The pieces of text, joined."""
    return "".join(event.data.get("token", "") for event in events)


def gist(events: Sequence[Event]) -> list[Json]:
    """What events say, however their text is cut: each text, and the data of each other event by its name."""
    return list(_gist(events))


def _gist(events: Sequence[Event]) -> Iterator[Json]:
    for is_text, group in groupby(events, lambda event: "token" in event.data):
        if is_text:
            yield spoken(list(group))
        else:
            yield from ((event.name, event.data) for event in group)
