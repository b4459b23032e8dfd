"""The whole server over a real store, on a loopback port, and what replies are checked by."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from runtime.access.authentication import open_authenticator
from runtime.agents.configuration import load_registry
from runtime.agents.engine import Engine, make_model
from runtime.agents.model import Model
from runtime.api.application import create_app
from runtime.api.connection import Runner
from runtime.api.routes import DEFAULT_STREAM_TIMEOUTS, StreamTimeouts
from runtime.config import Settings
from runtime.metrics import Metrics
from runtime.store.store import open_store

Client = TestClient[web.Request, web.Application]
Json = Any

BODY_LIMIT = 100_000

SESSION_FIELDS = {
    *("id", "session_id", "title", "description", "metadata", "created_at", "last_activity", "is_active"),
    *("deleted_at", "version", "last_seq", "message_count", "current_agent", "forked_from"),
}
USER = {"role": "user", "content": "hello"}
ANSWER = {"role": "assistant", "content": "hi"}


class Server(TestServer):
    """The test server of aiohttp, on connections of ours."""

    def __init__(self, app: web.Application, read_timeout: float, patience: float) -> None:
        super().__init__(app)
        self._limits = {"read_timeout": read_timeout, "patience": patience}

    async def _make_runner(self, **options: Any) -> Runner:
        return Runner(self.app, **self._limits)


@asynccontextmanager
async def serving(
    url: str,
    *,
    pace: StreamTimeouts = DEFAULT_STREAM_TIMEOUTS,
    max_body_bytes: int = BODY_LIMIT,
    model: Model | None = None,
    **settings: Any,
) -> AsyncIterator[Client]:
    """A client, without a token, of a server of its own on this database. Its settings say who is let in and,
    without a `model`, which one answers."""
    metrics = Metrics()
    chosen = Settings(db_url=url, max_body_bytes=max_body_bytes, **settings)
    registry = load_registry(chosen.agents_file)
    async with open_store(url, chosen, metrics) as store, open_authenticator(chosen, store.tokens) as gate:
        engine = Engine(store, registry, model or make_model(chosen), metrics)
        app = create_app(store, engine, gate, chosen, metrics, pace=pace)

        async def end_turns_and_streams(_: web.Application) -> None:
            await engine.close(5)
            store.end_streams()

        app.on_shutdown.append(end_turns_and_streams)
        async with TestClient(Server(app, chosen.read_timeout, pace.patience)) as client:
            yield client


async def check(response: ClientResponse, status: int = 200) -> Json:
    """The decoded body of a reply that must have this status."""
    text = await response.text()
    assert response.status == status, text
    assert response.headers["X-Request-ID"]
    if status == 204:
        assert text == ""
        return None
    return await response.json()


async def check_problem(response: ClientResponse, status: int, code: str, path: str | None = None) -> Json:
    """The problem details of a refusal that must be this one, at this place."""
    text = await response.text()
    assert response.status == status, text
    assert response.content_type == "application/problem+json"
    body = await response.json(content_type=None)
    expected = {"type", "title", "status", "detail", "code", "request_id"}
    assert set(body) == (expected | {"errors"} if path is not None else expected), body
    assert (body["type"], body["status"], body["code"]) == ("about:blank", status, code)
    assert body["request_id"] == response.headers["X-Request-ID"]
    if path is not None:
        assert [place["path"] for place in body["errors"]] == [path], body
    return body


async def make(client: Client, session_id: str = "s", **fields: Json) -> Json:
    """A new session."""
    return await check(await client.post("/sessions", json={"session_id": session_id, **fields}), 201)


async def append(client: Client, *messages: Json, session_id: str = "s") -> Json:
    """Messages appended to a session."""
    path = f"/sessions/{session_id}/messages"
    return await check(await client.post(path, json={"messages": list(messages)}), 201)


async def texts(client: Client, query: str = "", session_id: str = "s") -> list[Json]:
    """The contents of a page of messages."""
    page = await check(await client.get(f"/sessions/{session_id}/messages{query}"))
    return [message["content"] for message in page["messages"]]
