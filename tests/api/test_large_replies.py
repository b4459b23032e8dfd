"""R6 over HTTP: what is large is sent as it is read, in hand until it is taken, and kept under no key."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing

import aiohttp
import pytest

from runtime.api.routes import STORE
from tests.support.api_server import Client, check, check_problem, make, serving
from tests.support.event_readers import hearing
from tests.support.slow_sockets import connect, lazy_socket, send

pytestmark = pytest.mark.slow

# More than sockets hold together.
COUNT, SIZE = 400, 90_000
MESSAGE = {"role": "user", "content": "x" * SIZE}
KEY = {"Idempotency-Key": "k"}
LARGE = {"k": "x" * 90_000}
LONG_PAGE = "/sessions/s/messages?page=1&page_size=400"


@pytest.fixture
async def long(database_url: str) -> AsyncIterator[Client]:
    """A session of 36 MB."""
    async with serving(database_url) as client:
        await make(client)
        for _ in range(4):
            await client.app[STORE].append_messages("s", [MESSAGE] * (COUNT // 4))
        yield client


async def test_a_long_history_comes_whole_and_in_chunks(long: Client) -> None:
    reply = await long.get("/history/s")
    assert reply.headers["Transfer-Encoding"] == "chunked"
    assert reply.headers["ETag"] == '"5"'
    assert reply.headers["Cache-Control"] == "no-store"
    body = await check(reply)
    assert set(body) == {
        *("session_id", "messages", "message_count", "last_activity", "current_agent", "agent_history")
    }
    assert body["message_count"] == COUNT
    assert body["messages"] == [MESSAGE] * COUNT


async def test_a_numbered_page_is_whole_however_large(long: Client) -> None:
    body = await check(await long.get(LONG_PAGE))
    assert [message["seq"] for message in body["messages"]] == list(range(1, COUNT + 1))
    assert body["next_after"] is None
    body = await check(await long.get("/sessions/s/messages?page=2&page_size=150&role=user"))
    assert [message["seq"] for message in body["messages"]] == list(range(151, 301))
    assert body["next_after"] == 300


async def test_a_page_ends_early_and_says_where_to_go_on(long: Client) -> None:
    found, after = 0, 0
    while after is not None:
        body = await check(await long.get(f"/sessions/s/messages?after={after}&limit=1000"))
        assert 0 < sum(len(message["content"]) for message in body["messages"]) <= 4 * 2**20
        found, after = found + len(body["messages"]), body["next_after"]
    assert found == COUNT


async def test_a_head_reads_no_more_than_the_beginning(long: Client) -> None:
    reply = await long.head("/sessions/s/history")
    assert (reply.status, reply.headers["ETag"], await reply.read()) == (200, '"5"', b"")


@pytest.mark.parametrize("path", ["/sessions/s/history", LONG_PAGE])
@pytest.mark.parametrize("how", ["cut", "erased"])
async def test_a_reply_whose_messages_are_taken_away_breaks_off(long: Client, path: str, how: str) -> None:
    with hearing("agent_runtime.http", "broken off") as broken_off:
        reply = await long.get(path)
        await reply.content.readexactly(SIZE)
        if how == "cut":
            await check(await long.delete(f"/sessions/s/messages?after={COUNT - 1}"))
        else:
            await check(await long.delete("/sessions/s?hard=true"), 204)
        with pytest.raises(aiohttp.ClientError):
            await reply.read()
        await broken_off.wait()


async def test_readers_of_long_histories_have_little_in_hand(long: Client) -> None:
    with lazy_socket() as end:
        connection = await connect(long, end)
        line = connection._line
        assert line is not None
        await send(end, b"GET /history/s HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(20):
            while line.get_write_buffer_size() == 0:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        # However fast it could be read, no more is handed to the transport than it can send in two steps.
        for _ in range(50):
            assert line.get_write_buffer_size() <= 3 * 65_536
            await asyncio.sleep(0)
        line.abort()


def kept_reply(url: str) -> str:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        [(reply,)] = connection.execute("SELECT reply FROM idempotency_keys")
    return str(reply)


async def test_a_repeat_finds_large_metadata_where_it_is_stored(database_url: str) -> None:
    async with serving(database_url, max_body_bytes=200_000) as client:
        await make(client, metadata=LARGE)
        first = await client.patch("/sessions/s", json={"title": "one"}, headers=KEY)
        session = await check(first)
        assert session["metadata"] == LARGE
        again = await client.patch("/sessions/s", json={"title": "one"}, headers=KEY)
        assert again.headers["Idempotent-Replayed"] == "true"
        assert await check(again) == session
        assert again.headers["ETag"] == first.headers["ETag"] == '"2"'
        if database_url.startswith("sqlite"):
            assert len(kept_reply(database_url)) < 1000
        # A large reply is not kept: the repeat shows the session as it is now, and says at which version.
        await check(await client.patch("/sessions/s", json={"title": "two"}))
        later = await client.patch("/sessions/s", json={"title": "one"}, headers=KEY)
        assert (await check(later))["title"] == "two"
        assert (later.headers["ETag"], later.headers["Idempotent-Replayed"]) == ('"3"', "true")
        await check(await client.delete("/sessions/s"), 204)
        gone = await client.patch("/sessions/s", json={"title": "one"}, headers=KEY)
        await check_problem(gone, 404, "session_not_found")


async def test_a_repeat_of_what_is_small_answers_as_the_first_did(client: Client) -> None:
    await make(client, metadata={"k": "x" * 1000})
    session = await check(await client.patch("/sessions/s", json={"title": "one"}, headers=KEY))
    await check(await client.patch("/sessions/s", json={"title": "two"}))
    assert await check(await client.patch("/sessions/s", json={"title": "one"}, headers=KEY)) == session


@pytest.mark.parametrize("what", ["create", "context", "approval", "decision"])
async def test_repeats_of_large_writes(database_url: str, what: str) -> None:
    async with serving(database_url, max_body_bytes=400_000) as client:
        paths = {
            "create": ("POST", "/sessions", {"session_id": "new", "metadata": LARGE}),
            "context": ("PATCH", "/sessions/s/context", {"metadata": LARGE}),
            "approval": (
                "POST",
                "/sessions/s/approvals",
                {"call_id": "b", "tool_name": "t", "arguments": LARGE},
            ),
            "decision": ("POST", "/sessions/s/approvals/a/decision", {"decision": "approve"}),
        }
        await make(client)
        waiting = {"call_id": "a", "tool_name": "t", "arguments": LARGE}
        await check(await client.post("/sessions/s/approvals", json=waiting), 201)
        method, path, body = paths[what]
        first = await client.request(method, path, json=body, headers=KEY)
        shown = await check(first, first.status)
        assert LARGE in shown.values()
        again = await client.request(method, path, json=body, headers=KEY)
        assert (again.status, again.headers["Idempotent-Replayed"]) == (first.status, "true")
        assert await check(again, first.status) == shown
        assert again.headers["ETag"] == first.headers["ETag"]
        if database_url.startswith("sqlite"):
            assert len(kept_reply(database_url)) < 1000


async def test_large_metadata_stays_as_it_is_where_nobody_changes_it(database_url: str) -> None:
    async with serving(database_url, max_body_bytes=200_000) as client:
        await make(client, metadata=LARGE)
        await check(await client.patch("/sessions/s/context", json={"metadata": LARGE}))
        await check(await client.post("/sessions/s/agent", json={"agent": "coder"}))
        await check(await client.delete("/sessions/s"), 204)
        restored = await check(await client.post("/sessions/s/restore"))
        assert restored["metadata"] == LARGE
        assert (await check(await client.get("/sessions/s/context")))["metadata"] == LARGE
        changed = await check(await client.patch("/sessions/s", json={"metadata": {"k": 1}}))
        assert changed["metadata"] == {"k": 1}


async def test_approvals_come_in_pages(client: Client) -> None:
    await make(client)
    for name in "cab":
        body = {"call_id": name, "tool_name": "t", "arguments": {}}
        await check(await client.post("/sessions/s/approvals", json=body), 201)
    for path, name in (("approvals", "approvals"), ("pending-approvals", "pending_approvals")):
        page = await check(await client.get(f"/sessions/s/{path}?limit=2"))
        assert [approval["call_id"] for approval in page[name]] == ["c", "a"]
        assert page["next_after"] == "a"
        page = await check(await client.get(f"/sessions/s/{path}?limit=2&after=a"))
        assert [approval["call_id"] for approval in page[name]] == ["b"]
        assert page["next_after"] is None
        await check_problem(await client.get(f"/sessions/s/{path}?after=x"), 404, "approval_not_found")
        await check_problem(
            await client.get(f"/sessions/s/{path}?limit=1001"), 422, "invalid_input", "?limit"
        )


async def test_a_stream_that_holds_more_than_its_client_may_ends(database_url: str) -> None:
    async with serving(database_url, max_body_bytes=10_000_000, client_bytes=1_500_000) as client:
        await make(client)
        store = client.app[STORE]
        for _ in range(12):
            await store.append_messages("s", [{"role": "user", "content": "x" * 900_000}])
        with hearing("agent_runtime.http", "the stream ends") as ended, lazy_socket() as end:
            await connect(client, end)
            await send(end, b"GET /sessions/s/events?after=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with lazy_socket() as other:
                await connect(client, other)
                await send(other, b"GET /sessions/s/events?after=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
                async with asyncio.timeout(20):
                    await ended.wait()
        # Whoever reads gets all of it, with however little room.
        async with client.get("/sessions/s/events?after=0") as stream:
            received = await stream.content.readexactly(12 * 900_000)
        assert received.count(b"event: message") == 12
