"""Exports over HTTP, on both databases: who gets which, and what they are."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from runtime.api.routes import STORE
from tests.support.api_server import ANSWER, USER, Client, append, check, check_problem, make, serving
from tests.support.token_issuer import bearer

KEY = "internal-key-0123456789"


@pytest.fixture
async def closed(database_url: str) -> AsyncIterator[Client]:
    """A client of a server that lets in who has a token."""
    async with serving(database_url, internal_api_key=KEY) as client:
        yield client


async def stored(client: Client, **scope: str) -> list[bytes]:
    """The lines of an export but for its header, which has its time."""
    return [line async for line in client.app[STORE].export(**scope)][1:]


async def received(client: Client, path: str, **options: dict[str, str]) -> list[bytes]:
    """The same, as HTTP sends it."""
    async with client.get(path, **options) as response:
        body = await response.read()
        assert (response.status, response.content_type) == (200, "application/jsonl"), body
    first, *lines = body.splitlines(keepends=True)
    assert json.loads(first).items() >= {"format": "agent-runtime", "version": 1}.items()
    return lines


async def test_a_session_is_sent_line_by_line(client: Client) -> None:
    await make(client)
    await append(client, USER, {**ANSWER, "own": 2**70})
    lines = await received(client, "/sessions/s/export")
    assert lines == await stored(client, session_id="s")
    session, *messages, end = map(json.loads, lines)
    assert (session["session"]["session_id"], session["session"]["owner"]) == ("s", "")
    assert [message["message"]["content"] for message in messages] == ["hello", "hi"]
    assert messages[1]["message"]["own"] == 2**70
    assert end == {"end": {"sessions": 1, "messages": 2}}


async def test_a_large_session_is_sent_whole(client: Client) -> None:
    await make(client)
    for _ in range(40):
        await append(client, *[{"role": "user", "content": "x" * 900}] * 100)
    assert await received(client, "/sessions/s/export") == await stored(client, session_id="s")


async def test_a_head_request_reads_no_messages(client: Client) -> None:
    await make(client)
    async with client.head("/sessions/s/export") as response:
        assert (response.status, await response.read()) == (200, b"")


async def test_a_session_that_is_missing_or_deleted_is_not_found(client: Client) -> None:
    await make(client)
    await check_problem(await client.get("/sessions/other/export"), 404, "session_not_found")
    await check(await client.delete("/sessions/s"), 204)
    await check_problem(await client.get("/sessions/s/export"), 404, "session_not_found")


async def test_a_session_is_exported_for_its_owner_alone(closed: Client) -> None:
    store = closed.app[STORE]
    await store.create_session("s", owner="alice")
    tokens = {name: (await store.tokens.create("t", owner=name))[1] for name in ("alice", "bob")}
    own = await received(closed, "/sessions/s/export", headers=bearer(tokens["alice"]))
    assert own == await stored(closed, owner="alice")
    response = await closed.get("/sessions/s/export", headers=bearer(tokens["bob"]))
    await check_problem(response, 404, "session_not_found")
    await check_problem(await closed.get("/sessions/s/export"), 401, "unauthorized")


async def test_an_owner_is_exported_for_an_admin_alone(closed: Client) -> None:
    store = closed.app[STORE]
    for owner, id in (("alice", "b"), ("alice", "a"), ("alicf", "a"), ("", "a")):
        await store.create_session(id, owner=owner)
    await store.delete_session("b", owner="alice")
    token = (await store.tokens.create("t", owner="alice", scope="write"))[1]
    await check_problem(await closed.get("/owners/alice/export", headers=bearer(token)), 403, "forbidden")
    admin = (await store.tokens.create("t", owner="root", scope="admin"))[1]
    lines = await received(closed, "/owners/alice/export", headers=bearer(admin))
    assert lines == await stored(closed, owner="alice")
    sessions = [json.loads(line)["session"] for line in lines[:-1]]
    assert [(each["session_id"], each["deleted_at"] is None) for each in sessions] == [
        ("a", True),
        ("b", False),
    ]
    assert len(await received(closed, "/owners/nobody/export", headers=bearer(admin))) == 1
