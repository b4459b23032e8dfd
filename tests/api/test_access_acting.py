"""`X-Owner`: an admin acts for an owner, and nobody else does, on both databases."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator

import pytest

from runtime.api.application import ROUTES
from runtime.api.authorization import AUTHORIZER
from runtime.api.routes import STORE, StreamTimeouts
from runtime.models import Scope
from runtime.store.store import Store
from tests.support.api_server import USER, Client, Json, check, check_problem, serving
from tests.support.event_readers import LONG, next_event
from tests.support.slow_sockets import raw
from tests.support.token_issuer import bearer, claims, jwt_issuer

pytestmark = pytest.mark.slow

KEY = "internal-key-0123456789"
INTERNAL = {"X-Internal-Auth": KEY}
QUICK = StreamTimeouts(heartbeat=0.05)
# What a caller without the scope admin may put there: it is never looked at.
ANY_VALUE = ("alice", "bob", "admin", "", " ", "x" * 300, "*", "ü", "../alice", "null")
LOGGER = "agent_runtime.access"


@pytest.fixture
async def client(database_url: str) -> AsyncIterator[Client]:
    """A client of a server that is closed, since it has an internal key."""
    async with serving(database_url, internal_api_key=KEY, pace=QUICK, access_log=False) as client:
        yield client


def store_of(client: Client) -> Store:
    return client.app[STORE]


async def signed_in(client: Client, owner: str = "ops", scope: Scope = "admin") -> dict[str, str]:
    """The headers of a new token."""
    return bearer((await store_of(client).tokens.create("test", owner=owner, scope=scope))[1])


async def session_ids(client: Client, headers: dict[str, str]) -> set[str]:
    listed = await check(await client.get("/sessions", headers=headers))
    return {session["session_id"] for session in listed["sessions"]}


async def make_for(client: Client, headers: dict[str, str], session_id: str = "s", **fields: Json) -> Json:
    body = {"session_id": session_id, "messages": [USER], **fields}
    return await check(await client.post("/sessions", json=body, headers=headers), 201)


async def test_an_admin_token_and_the_internal_key_act_for_somebody(client: Client) -> None:
    admin, alice = await signed_in(client), await signed_in(client, "alice", "read")
    await make_for(client, {**admin, "X-Owner": "alice"}, "by token")
    await make_for(client, {**INTERNAL, "X-Owner": "alice"}, "by key")
    assert await session_ids(client, alice) == {"by token", "by key"}
    assert await session_ids(client, {**admin, "X-Owner": "alice"}) == {"by token", "by key"}
    for other in (admin, INTERNAL, {**admin, "X-Owner": "bob"}):
        assert await session_ids(client, other) == set()


async def test_without_the_header_an_admin_is_an_owner_like_others(client: Client) -> None:
    admin = await signed_in(client)
    await make_for(client, {**admin, "X-Owner": "alice"})
    await check_problem(await client.get("/sessions/s", headers=admin), 404, "session_not_found")


async def test_a_jwt_with_the_scope_admin_acts_for_somebody(database_url: str) -> None:
    async with jwt_issuer("RS256") as issuer, serving(database_url, **issuer.settings()) as client:
        admin, user = (bearer(issuer.sign(claims("ops", scope=scope))) for scope in ("admin", "write"))
        await make_for(client, {**admin, "X-Owner": "alice"})
        assert await session_ids(client, bearer(issuer.sign(claims("alice")))) == {"s"}
        refused = await client.get("/sessions", headers={**user, "X-Owner": "alice"})
        await check_problem(refused, 403, "forbidden")


async def test_every_route_refuses_the_header_to_all_but_admins(client: Client) -> None:
    everyone: list[tuple[Scope, dict[str, str]]] = [
        (scope, await signed_in(client, owner, scope))
        for owner, scope in (("alice", "read"), ("alice", "write"), ("ops", "admin"))
    ]
    asked = 0
    for route in ROUTES:
        path = re.sub("{.*?}", "x", route.path)
        if route.scope is None:
            continue
        assert (await client.request(route.method, path, headers={"X-Owner": "alice"})).status == 401
        for scope, headers in everyone:
            for name in ANY_VALUE if scope != "admin" else ("alice",):
                async with client.request(route.method, path, headers={**headers, "X-Owner": name}) as reply:
                    assert (reply.status == 403) == (scope != "admin"), (route.path, scope, name)
                    assert reply.status != 401
                    asked += 1
    assert asked > 20 * 30


async def test_a_refusal_names_the_header_and_changes_nothing(client: Client) -> None:
    alice = await signed_in(client, "alice", "write")
    for name in ANY_VALUE:
        headers = {**alice, "X-Owner": name}
        body = await check_problem(await client.post("/sessions", json={}, headers=headers), 403, "forbidden")
        assert "X-Owner needs the scope admin" in body["detail"]
    for headers in (alice, {**INTERNAL, "X-Owner": "bob"}, INTERNAL):
        assert await session_ids(client, headers) == set()


async def test_no_parameter_and_no_field_names_another_owner(client: Client) -> None:
    """The header is the only way: an `owner` anywhere else is unknown, also to an admin."""
    await make_for(client, {**INTERNAL, "X-Owner": "alice"}, "secret")
    for headers in (await signed_in(client, "bob", "write"), await signed_in(client)):
        for route in ROUTES:
            if route.scope is None or route.admin:
                continue
            path = re.sub("{.*?}", "secret", route.path)
            sent = {**headers, "X-Owner-Id": "alice", "X-Forwarded-User": "alice", "From": "alice"}
            body = None if route.method == "GET" else {"owner": "alice", "session_id": "secret"}
            query = {"owner": "alice", "X-Owner": "alice", "after": "0"}
            async with client.request(route.method, path, params=query, json=body, headers=sent) as reply:
                known = reply.status < 300 and route.media_type == "text/event-stream"
                assert known or b"hello" not in await reply.read(), route.path
    kept = await check(await client.get("/sessions/secret", headers={**INTERNAL, "X-Owner": "alice"}))
    assert (kept["version"], kept["message_count"]) == (1, 1)


@pytest.mark.parametrize("name", ["", "x" * 256, "a\tb"])
async def test_a_wrong_name_is_refused_with_what_is_right(client: Client, name: str) -> None:
    for headers in (INTERNAL, await signed_in(client)):
        refused = await client.get("/sessions", headers={**headers, "X-Owner": name})
        body = await check_problem(refused, 422, "invalid_input", "X-Owner")
        assert "1 to 255 characters" in body["detail"]


async def test_bytes_that_are_no_text_are_no_name(client: Client) -> None:
    key = f"X-Internal-Auth: {KEY}".encode()
    for name in (b"\xff\xfe", b"\xed\xa0\x80", b"\xc3", b"a\xe9", b"\xc2\x85"):
        assert (await raw(client, key, b"X-Owner: " + name))[9:12] == b"422"


async def test_a_name_is_given_once(client: Client) -> None:
    key = f"X-Internal-Auth: {KEY}".encode()
    for second in (b"bob", b"alice", b""):
        assert (await raw(client, key, b"X-Owner: alice", b"x-owner: " + second))[9:12] == b"422"


@pytest.mark.parametrize("name", ["alice@example.com", "Zoë 日本", "a/b?c#d%20", "x" * 255, "🦊"])
async def test_a_name_may_be_of_any_script(client: Client, name: str) -> None:
    await make_for(client, {**INTERNAL, "X-Owner": name})
    assert (await store_of(client).get_session("s", owner=name)).message_count == 1


async def test_keys_of_repeats_belong_to_the_owner(client: Client) -> None:
    for owner in ("alice", "bob"):
        headers = {**INTERNAL, "X-Owner": owner, "Idempotency-Key": "k"}
        for repeat in (False, True):
            made = await client.post("/sessions", json={"session_id": "s"}, headers=headers)
            assert (made.headers.get("Idempotent-Replayed") == "true") == repeat


async def test_a_turn_is_the_owners(client: Client) -> None:
    body = {"session_id": "s", "message": {"type": "user_message", "content": "Hello."}}
    headers = {**INTERNAL, "X-Owner": "alice"}
    async with client.post("/agent/message/stream", json=body, headers=headers) as stream:
        assert b"event: done" in await stream.read()
    assert (await store_of(client).list_turns("s", owner="alice")).turns[0].status == "completed"


async def test_public_routes_look_at_no_header(client: Client) -> None:
    for path in ("/health", "/health/ready"):
        await check(await client.get(path, headers={"X-Owner": "\u00fc" * 300}))


# The log


def uses(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, str]]:
    """Each logged use: the caller, its own owner, and the owner it acted for."""
    found = [record for record in caplog.records if record.name == LOGGER and hasattr(record, "caller")]
    return [(record.caller, record.caller_owner, record.owner) for record in found]  # type: ignore[attr-defined]


async def test_every_use_is_logged_with_both_names(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    token, text = await store_of(client).tokens.create("test", owner="ops", scope="admin")
    sent = {"X-Owner": "alice", "X-Request-ID": "request-1"}
    with caplog.at_level(logging.INFO, LOGGER):
        await check(await client.get("/sessions", headers={**bearer(text), **sent}))
        await check_problem(
            await client.get("/sessions/x", headers={**INTERNAL, **sent}), 404, "session_not_found"
        )
        await check(await client.get("/sessions", headers=INTERNAL))
    assert uses(caplog) == [(f"token {token.id}", "ops", "alice"), ("internal", "", "alice")]
    first, second = (record for record in caplog.records if record.name == LOGGER)
    assert "'ops'" in first.getMessage()
    assert "'alice'" in first.getMessage()
    assert (second.method, second.path, second.request_id) == ("GET", "/sessions/x", "request-1")  # type: ignore[attr-defined]


async def test_a_stream_is_logged_when_it_begins(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    await store_of(client).create_session("s", owner="alice", messages=[USER])
    with caplog.at_level(logging.INFO, LOGGER):
        async with client.get("/sessions/s/events", headers={**INTERNAL, "X-Owner": "alice"}) as stream:
            assert (await next_event(stream))["data"]["content"] == "hello"
            assert uses(caplog) == [("internal", "", "alice")]


async def test_a_name_begins_no_line_of_the_log(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, LOGGER):
        await check(await client.get("/sessions", headers={**INTERNAL, "X-Owner": "a\u2028b"}))
    [record] = (record for record in caplog.records if record.name == LOGGER)
    assert len(record.getMessage().splitlines()) == 1


# Streams and quotas


async def test_a_stream_ends_with_the_token_of_who_acts(client: Client) -> None:
    store = store_of(client)
    _, text = await store.tokens.create("test", owner="ops", scope="admin")
    await store.create_session("s", owner="alice", messages=[USER])
    async with client.get("/sessions/s/events", headers={**bearer(text), "X-Owner": "alice"}) as stream:
        assert (await next_event(stream))["data"]["content"] == "hello"
        await store.tokens.revoke(text)
        await store.append_messages("s", [{"role": "user", "content": "secret"}], owner="alice")
        async with asyncio.timeout(LONG):
            assert b"secret" not in await stream.read()


async def test_quotas_count_for_who_asks_whatever_the_owner(database_url: str) -> None:
    async with serving(database_url, internal_api_key=KEY, client_streams=1) as client:
        for owner in ("alice", "bob"):
            await store_of(client).create_session("s", owner=owner, messages=[USER])
        first = {**INTERNAL, "X-Owner": "alice"}
        async with client.get("/sessions/s/events", headers=first) as stream:
            assert stream.status == 200
            second = await client.get("/sessions/s/events", headers={**INTERNAL, "X-Owner": "bob"})
            await check_problem(second, 429, "too_many_requests")


# An open server


async def test_on_an_open_server_everybody_acts_for_anybody(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(database_url) as client:
        with caplog.at_level(logging.INFO, LOGGER):
            await make_for(client, {"X-Owner": "alice"})
        assert uses(caplog) == [("anybody", "", "alice")]
        assert await session_ids(client, {}) == set()
        assert await session_ids(client, {"X-Owner": "alice"}) == {"s"}


async def test_a_stream_of_somebody_ends_when_the_server_closes(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.access.authentication.LOOK_SECONDS", 0.01)
    async with serving(database_url, pace=QUICK) as client:
        await make_for(client, {"X-Owner": "alice"})
        async with client.get("/sessions/s/events", headers={"X-Owner": "alice"}) as stream:
            assert (await next_event(stream))["data"]["content"] == "hello"
            await signed_in(client)
            async with asyncio.timeout(LONG):
                while client.app[AUTHORIZER].gate.open:  # noqa: ASYNC110 - no event says so
                    await asyncio.sleep(0.01)
                await store_of(client).append_messages(
                    "s", [{"role": "user", "content": "secret"}], owner="alice"
                )
                assert b"secret" not in await stream.read()
