"""The stream of a session's events, on both databases."""

from __future__ import annotations

import asyncio
import logging

import pytest

from runtime.api.routes import METRICS, StreamTimeouts
from tests.support.api_server import ANSWER, USER, Client, append, check, check_problem, make, serving
from tests.support.event_readers import LONG, hearing, next_event, stalled_reader

pytestmark = pytest.mark.slow

EVENTS = "/sessions/s/events"


async def test_from_the_beginning_and_then_live(client: Client) -> None:
    await make(client)
    await append(client, USER)
    async with client.get(EVENTS) as stream:
        assert stream.status == 200
        assert stream.content_type == "text/event-stream"
        assert stream.headers["Cache-Control"] == "no-store"
        assert stream.headers["X-Accel-Buffering"] == "no"
        assert stream.headers["X-Request-ID"]
        page = await check(await client.get("/sessions/s/messages"))
        assert await next_event(stream) == {"id": "1", "event": "message", "data": page["messages"][0]}
        await append(client, ANSWER)
        live = await next_event(stream)
        assert (live["id"], live["data"]["content"]) == ("2", "hi")


async def test_other_changes_have_no_id(client: Client) -> None:
    await make(client)
    async with client.get(EVENTS) as stream:
        await check(await client.post("/sessions/s/agent", json={"agent": "coder"}))
        changed = await next_event(stream)
        assert changed == {"event": "changed", "data": {"version": 2, "what": ["agent"]}}


async def test_resumed(client: Client) -> None:
    await make(client)
    await append(client, USER, ANSWER)
    for query, headers in (
        ("?after=1", {}),
        ("", {"Last-Event-ID": "1"}),
        ("?after=0", {"Last-Event-ID": "1"}),
        ("?after=1", {"Last-Event-ID": ""}),
    ):
        async with client.get(EVENTS + query, headers=headers) as stream:
            assert (await next_event(stream))["id"] == "2"


@pytest.mark.parametrize(("query", "last_event_id"), [("", "2"), ("?after=2", ""), ("?after=999", "")])
async def test_a_session_erased_and_made_anew_is_read_from_the_start(
    client: Client, query: str, last_event_id: str
) -> None:
    await make(client)
    await append(client, USER, ANSWER)
    await check(await client.delete("/sessions/s?hard=true"), 204)
    await make(client)
    async with client.get(EVENTS + query, headers={"Last-Event-ID": last_event_id}) as stream:
        reset = await next_event(stream)
        assert reset == {"id": "0", "event": "changed", "data": {"version": 1, "what": ["reset"]}}
        await append(client, ANSWER)
        first = await next_event(stream)
        assert (first["id"], first["data"]["content"]) == ("1", "hi")
    # A client goes on behind the last id that it was sent.
    async with client.get(EVENTS, headers={"Last-Event-ID": reset["id"]}) as stream:
        assert await next_event(stream) == first


async def test_bad_last_event_ids(client: Client) -> None:
    await make(client)
    for event_id in ("x", "-1", "1.5", "9" * 19, "٣"):
        response = await client.get(EVENTS, headers={"Last-Event-ID": event_id})
        await check_problem(response, 422, "invalid_input", "Last-Event-ID")


async def test_the_end_of_the_session_ends_the_stream(client: Client) -> None:
    await make(client)
    async with client.get(EVENTS) as stream:
        await check(await client.delete("/sessions/s"), 204)
        assert (await next_event(stream))["data"]["what"] == ["deleted"]
        assert await stream.content.read() == b""
    await check_problem(await client.get(EVENTS), 404, "session_not_found")


async def test_a_comment_when_it_is_quiet(database_url: str) -> None:
    async with serving(database_url, pace=StreamTimeouts(heartbeat=0.01)) as client:
        await make(client)
        async with client.get(EVENTS) as stream:
            assert await next_event(stream) == {"": ""}
            assert await next_event(stream) == {"": ""}


async def test_head(client: Client) -> None:
    await make(client)
    response = await client.head(EVENTS)
    assert (response.status, response.content_type) == (200, "text/event-stream")


async def test_open_streams_are_counted_and_end_with_the_server(database_url: str) -> None:
    async with serving(database_url) as client:
        await make(client)
        await append(client, USER)
        stream = await client.get(EVENTS)
        await next_event(stream)
        assert "agent_runtime_sse_streams 1.0" in await (await client.get("/metrics")).text()
        app = client.app
    assert app is not None
    assert next(iter(app[METRICS].sse_streams.collect())).samples[0].value == 0


async def test_a_reader_that_stalls_is_cut_off(database_url: str) -> None:
    async with serving(database_url, pace=StreamTimeouts(patience=0.1), max_body_bytes=2**24) as client:
        await make(client)
        # More than the buffers of the sockets between the two can hold.
        for _ in range(16):
            await append(client, {**USER, "content": "x" * 1_000_000})
        with hearing("agent_runtime.http", "stalled") as cut_off:
            async with stalled_reader(client, f"GET {EVENTS} HTTP/1.1\r\nHost: localhost\r\n\r\n"):
                async with asyncio.timeout(LONG):
                    await cut_off.wait()


async def test_a_reader_that_goes_away_is_forgotten(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    await make(client)
    stream = await client.get(EVENTS)
    stream.close()
    async with asyncio.timeout(10):
        while "agent_runtime_sse_streams 0.0" not in await (await client.get("/metrics")).text():
            await append(client, USER)
    assert not [
        record
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name == "agent_runtime.http"
    ]
