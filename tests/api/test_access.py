"""Who is let in, by which headers, to which routes, on both databases."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from aiohttp import ClientResponse

from runtime.api.application import ROUTES
from runtime.api.authorization import AUTHORIZER
from runtime.api.routes import STORE, StreamTimeouts
from runtime.config import Settings
from runtime.errors import SettingsError
from runtime.models import Scope
from runtime.store.store import Store
from tests.support.api_server import USER, Client, check, check_problem, make, serving
from tests.support.event_readers import LONG, next_event
from tests.support.model_server import model_server, says
from tests.support.slow_sockets import raw
from tests.support.token_issuer import JwtIssuer, bearer, claims, jwt_issuer

pytestmark = pytest.mark.slow

SCOPES: tuple[Scope, ...] = ("read", "write", "admin")
KEY = "internal-key-0123456789"
QUICK = StreamTimeouts(heartbeat=0.05)


@pytest.fixture
async def client(database_url: str) -> AsyncIterator[Client]:
    """A client of a server that is closed, since it has an internal key."""
    async with serving(database_url, internal_api_key=KEY, pace=QUICK) as client:
        yield client


def store_of(client: Client) -> Store:
    return client.app[STORE]


async def token(client: Client, owner: str = "alice", scope: Scope = "write") -> str:
    """The text of a new token."""
    return (await store_of(client).tokens.create("test", owner=owner, scope=scope))[1]


async def check_refused(response: ClientResponse) -> None:
    """401, with all that goes with it, and nothing of what was sent."""
    body = await check_problem(response, 401, "unauthorized")
    assert response.headers["WWW-Authenticate"].startswith('Bearer realm="agent-runtime"')
    assert response.headers["Cache-Control"] == "no-store"
    assert "Retry-After" not in response.headers
    assert "art_" not in body["detail"]


async def test_a_token_lets_in(client: Client) -> None:
    await check(await client.get("/sessions", headers=bearer(await token(client))))


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "bEaReR", "Bearer  ", "Bearer   "])
async def test_the_scheme_is_read_in_any_case(client: Client, scheme: str) -> None:
    headers = {"Authorization": f"{scheme} {await token(client)}"}
    await check(await client.get("/sessions", headers=headers))


async def test_nobody_is_let_in_without(client: Client) -> None:
    await check_refused(await client.get("/sessions"))


async def test_wrong_authorization(client: Client) -> None:
    good = await token(client)
    last = "0" if good[-1] != "0" else "1"
    for wrong in (
        *("", " ", "Bearer", "Bearer ", "bearer\t", good, f"Basic {good}", f"Token {good}", f"Bearer={good}"),
        *(f"Bearer {good[:-1]}{last}", f"Bearer {good[:-1]}", f"Bearer {good}{last}", f"Bearer,{good}"),
        *(f"Bearer {good} {good}", f"Bearer {good}, Bearer {good}", f'Bearer "{good}"', f"BearerX {good}"),
        *("Bearer art_0a_1b", "Bearer art__", "Bearer ..", "Bearer a.b.c", "Bearer null", "Bearer undefined"),
        *("Bearer ü", "Bearer art_ü_ü", f"Bearer {'x' * 7000}", f"Bearer art_{'x' * 3000}_{'y' * 3000}"),
    ):
        await check_refused(await client.get("/sessions", headers={"Authorization": wrong}))


@pytest.mark.parametrize("garbage", [b"\xff\xfe", b"art_\xff_\xfe", b"\xed\xa0\x80", b"\xc3", b"\x80" * 1000])
async def test_bytes_that_are_no_text(client: Client, garbage: bytes) -> None:
    for line in (b"Authorization: Bearer " + garbage, b"X-Internal-Auth: " + garbage):
        assert (await raw(client, line)).startswith(b"HTTP/1.1 401 ")


async def test_a_very_long_token(client: Client) -> None:
    answer = await raw(client, b"Authorization: Bearer " + b"x" * 20_000)
    assert answer[8:].startswith(b" 431 ")
    assert b"application/problem+json" in answer


async def test_of_two_authorizations_none_counts(client: Client) -> None:
    texts = [await token(client, owner) for owner in ("alice", "bob")]
    first, second = (f"Authorization: Bearer {text}".encode() for text in texts)
    for lines in ((first, second), (first, b"Authorization: Bearer x"), (first, first)):
        for order in (lines, lines[::-1]):
            assert (await raw(client, *order)).startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 401 "))


async def test_of_two_internal_keys_none_counts(client: Client) -> None:
    right, wrong = f"X-Internal-Auth: {KEY}".encode(), b"X-Internal-Auth: x"
    for order in ((right, wrong), (wrong, right), (right, right)):
        assert (await raw(client, *order)).startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 401 "))


async def test_the_internal_key(client: Client) -> None:
    await check(await client.get("/sessions", headers={"X-Internal-Auth": KEY}))
    await check(await client.post("/maintenance/cleanup", headers={"X-Internal-Auth": KEY}))
    for wrong in ("", "x", KEY[:-1], KEY + "x", KEY.upper(), "ü"):
        await check_refused(await client.get("/sessions", headers={"X-Internal-Auth": wrong}))


async def test_one_wrong_proof_is_not_made_good_by_another(client: Client) -> None:
    good = bearer(await token(client))
    await check_refused(await client.get("/sessions", headers={**good, "X-Internal-Auth": "x"}))
    # Both are right: it is the internal one that asks.
    await store_of(client).create_session("of nobody")
    listed = await check(await client.get("/sessions", headers={**good, "X-Internal-Auth": KEY}))
    assert [session["session_id"] for session in listed["sessions"]] == ["of nobody"]


@pytest.mark.parametrize("key", ["", "x", "None"])
async def test_without_an_internal_key_none_is_right(database_url: str, key: str) -> None:
    async with serving(database_url) as client:
        await check_refused(await client.get("/sessions", headers={"X-Internal-Auth": key}))


async def test_the_public_routes_are_those_of_health(client: Client) -> None:
    assert {route.path for route in ROUTES if route.scope is None} == {"/health", "/health/ready"}
    for path in ("/health", "/health/ready"):
        await check(await client.get(path))
        # Nobody is asked: a wrong token is not looked at.
        await check(await client.get(path, headers=bearer("x")))


async def test_every_route_demands_its_scope(client: Client) -> None:
    tokens = {held: bearer(await token(client, scope=held)) for held in SCOPES}
    for route in ROUTES:
        for method in (route.method, "HEAD") if route.method == "GET" else (route.method,):
            await check_scope(client, method, re.sub("{.*?}", "x", route.path), route.scope, tokens)


async def check_scope(
    client: Client, method: str, path: str, scope: Scope | None, tokens: dict[Scope, dict[str, str]]
) -> None:
    """Who holds the scope, or a wider one, is let in, and nobody else."""
    if scope is None:
        return
    assert (await client.request(method, path)).status == 401, (method, path)
    for number, (held, headers) in enumerate(tokens.items()):
        async with client.request(method, path, headers=headers) as response:
            refused = number < SCOPES.index(scope)
            assert (response.status == 403) == refused, (method, path, held, response.status)
            assert response.status != 401, (method, path, held)
            if refused:
                challenge = response.headers["WWW-Authenticate"]
                assert f'error="insufficient_scope", scope="{scope}"' in challenge


async def test_a_refusal_names_the_scope(client: Client) -> None:
    headers = bearer(await token(client, scope="read"))
    body = await check_problem(await client.post("/sessions", headers=headers), 403, "forbidden")
    assert "write" in body["detail"]
    assert "read" in body["detail"]


async def test_a_refused_request_changes_nothing(client: Client) -> None:
    for headers in ({}, bearer("x"), bearer(await token(client, scope="read"))):
        response = await client.post("/sessions", json={"session_id": "s"}, headers=headers)
        assert response.status in (401, 403)
    headers = bearer(await token(client))
    assert (await check(await client.get("/sessions", headers=headers)))["sessions"] == []


async def test_a_revoked_token_is_refused_at_once(client: Client) -> None:
    text = await token(client)
    await check(await client.get("/sessions", headers=bearer(text)))
    await store_of(client).tokens.revoke(text)
    await check_refused(await client.get("/sessions", headers=bearer(text)))


async def test_without_a_database_it_is_503(client: Client) -> None:
    text = await token(client)
    await store_of(client)._core.database.close()
    for sent in (text, "art_0a_1b"):
        response = await client.get("/sessions", headers=bearer(sent))
        await check_problem(response, 503, "database_unavailable")
        assert response.headers["Retry-After"]
        assert "WWW-Authenticate" not in response.headers


# Streams


@contextlib.asynccontextmanager
async def followed(client: Client, text: str, path: str) -> AsyncIterator[ClientResponse]:
    async with client.get(path, headers=bearer(text)) as stream:
        assert stream.status == 200
        yield stream


async def test_a_session_stream_ends_before_it_shows_more(client: Client) -> None:
    text = await token(client)
    store = store_of(client)
    await store.create_session("s", owner="alice", messages=[USER])
    async with followed(client, text, "/sessions/s/events") as stream:
        assert (await next_event(stream))["data"]["content"] == "hello"
        await store.tokens.revoke(text)
        await store.append_messages("s", [{"role": "user", "content": "secret"}], owner="alice")
        async with asyncio.timeout(LONG):
            assert b"secret" not in await stream.read()


async def test_a_quiet_stream_ends_as_well(client: Client) -> None:
    text = await token(client)
    await store_of(client).create_session("s", owner="alice")
    async with followed(client, text, "/sessions/s/events") as stream:
        await store_of(client).tokens.revoke(text)
        async with asyncio.timeout(LONG):
            assert set(await stream.read()) <= set(b":\n")


@pytest.mark.slow
async def test_a_stream_ends_when_its_token_expires(client: Client) -> None:
    store = store_of(client)
    _, text = await store.tokens.create("test", owner="alice", lifetime=timedelta(seconds=2))
    await store.create_session("s", owner="alice")
    async with followed(client, text, "/sessions/s/events") as stream, asyncio.timeout(LONG):
        await stream.read()
    await check_refused(await client.get("/sessions", headers=bearer(text)))


async def test_a_turn_stream_ends_before_it_shows_more(database_url: str) -> None:
    gate = asyncio.Semaphore(1)
    async with (
        model_server([says("Once ", "secret ", gate=gate)]) as model,
        serving(database_url, internal_api_key=KEY, llm_url=model.url, llm_retries=0) as client,
    ):
        text = await token(client)
        body = {"session_id": "s", "message": {"type": "user_message", "content": "Tell."}}
        async with client.post("/agent/message/stream", json=body, headers=bearer(text)) as stream:
            turn_id = (await next_event(stream))["data"]["turn_id"]
            assert (await next_event(stream))["data"]["token"] == "Once "
            await store_of(client).tokens.revoke(text)
            gate.release()
            gate.release()
            async with asyncio.timeout(LONG):
                assert await stream.read() == b""
        # The turn itself runs on: it was asked for while the token was good.
        async with asyncio.timeout(LONG), store_of(client).follow_turn("s", turn_id, owner="alice") as turn:
            while await turn.events(LONG) is not None:
                pass
        assert (await store_of(client).list_turns("s", owner="alice")).turns[0].status == "completed"


# A server that is open


async def test_an_open_server_takes_whoever_asks(database_url: str) -> None:
    async with serving(database_url) as client:
        await make(client)
        await check(await client.post("/maintenance/cleanup"))


async def test_an_open_server_refuses_what_is_wrong(database_url: str) -> None:
    async with serving(database_url) as client:
        await check_refused(await client.get("/sessions", headers=bearer("art_0a_1b")))


async def test_an_open_server_does_not_hear_pages_of_other_sites(database_url: str) -> None:
    async with serving(database_url) as client:
        response = await client.post("/sessions", headers={"Sec-Fetch-Site": "cross-site"})
        await check_problem(response, 403, "forbidden")
        for site in ("same-origin", "same-site", "none"):
            await check(await client.get("/sessions", headers={"Sec-Fetch-Site": site}))
        assert (await check(await client.get("/sessions")))["sessions"] == []


@pytest.mark.parametrize(
    "host",
    [
        *(
            "evil.example",
            "evil.example:8001",
            "127.0.0.1.evil.example",
            "EVIL.example.",
            "wpad",
            "wpad:8001",
        ),
        *("agents", "router.local", "localhost.evil.example", "evillocalhost", "192.0.2.7:8001", "0.0.0.0"),
        *("[2001:db8::1]:8001", "[::ffff:192.0.2.7]", "localhost:8001:1", "127.0.0.1@evil.example"),
    ],
)
async def test_an_open_server_does_not_hear_names_that_were_rebound(sqlite_url: str, host: str) -> None:
    """A page of evil.example, whose name now means 127.0.0.1, is of the same site to the browser."""
    async with serving(sqlite_url) as client:
        await check_problem(await client.get("/sessions", headers={"Host": host}), 403, "forbidden")


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:8001",
        "localhost",
        "LOCALHOST:1",
        "[::1]:8001",
        "localhost.",
        "app.localhost",
        "127.8.9.1:1",
        "[::ffff:127.0.0.1]:8001",
        "Agents:8001",
        "agents.example.:8001",
        "192.0.2.7",
    ],
)
async def test_an_open_server_is_asked_by_its_own_names(sqlite_url: str, host: str) -> None:
    async with serving(sqlite_url, allowed_hosts="agents, agents.example , 192.0.2.7") as client:
        await check(await client.get("/sessions", headers={"Host": host}))
        for other in ("wpad", "evil.agents", "agents.example.evil.example"):
            refused = await client.get("/sessions", headers={"Host": other})
            problem = await check_problem(refused, 403, "forbidden")
            assert (repr(other) in problem["detail"], "ALLOWED_HOSTS" in problem["detail"]) == (True, True)


async def test_an_open_server_is_asked_by_the_name_that_it_listens_on(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def means_this_machine(host: str) -> bool:
        return host == "workstation"

    monkeypatch.setattr("runtime.access.authentication.is_loopback", means_this_machine)
    async with serving(sqlite_url, host="workstation") as client:
        await check(await client.get("/sessions", headers={"Host": "workstation:8001"}))


async def test_a_closed_server_may_have_any_name(client: Client) -> None:
    headers = {**bearer(await token(client)), "Host": "agents.example", "Sec-Fetch-Site": "cross-site"}
    await check(await client.get("/sessions", headers=headers))


async def closed(client: Client) -> None:
    """Wait until the gate is closed: nothing tells when."""
    while client.app[AUTHORIZER].gate.open:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_an_open_server_closes_with_the_first_token(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.access.authentication.LOOK_SECONDS", 0.01)
    async with serving(database_url, pace=QUICK) as client:
        await make(client)
        async with client.get("/sessions/s/events") as stream:
            text = await token(client, owner="")
            async with asyncio.timeout(LONG):
                await closed(client)
                await check_refused(await client.get("/sessions"))
                # Whoever came in before is shown out.
                await store_of(client).append_messages("s", [USER])
                assert b"hello" not in await stream.read()
        await check(await client.get("/sessions", headers=bearer(text)))
        await store_of(client).tokens.revoke(text)
        await check_refused(await client.get("/sessions"))
    async with serving(database_url) as client:
        await check_refused(await client.get("/sessions"))


async def test_the_open_gate_looks_on_when_the_database_fails(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.access.authentication.LOOK_SECONDS", 0.01)
    async with serving(sqlite_url) as client:
        tokens = store_of(client).tokens
        working, failed = tokens._database, asyncio.Event()

        class Broken:
            async def fetch(self, *_: object) -> None:
                failed.set()
                raise OSError("not an error of ours")

        monkeypatch.setattr(tokens, "_database", Broken())
        await failed.wait()
        monkeypatch.setattr(tokens, "_database", working)
        await token(client)
        async with asyncio.timeout(LONG):
            await closed(client)


# JWTs


@pytest.fixture
async def issuer() -> AsyncIterator[JwtIssuer]:
    async with jwt_issuer("RS256", "ES256", "EdDSA") as issuer:
        yield issuer


@pytest.fixture
async def jwt_client(database_url: str, issuer: JwtIssuer) -> AsyncIterator[Client]:
    async with serving(database_url, pace=QUICK, **issuer.settings()) as client:
        yield client


async def test_subjects_do_not_see_each_other(jwt_client: Client, issuer: JwtIssuer) -> None:
    alice, bob = (bearer(issuer.sign(claims(sub), "EdDSA")) for sub in ("alice", "bob"))
    await check(await jwt_client.post("/sessions", json={"session_id": "s"}, headers=alice), 201)
    await check_problem(await jwt_client.get("/sessions/s", headers=bob), 404, "session_not_found")
    assert (await check(await jwt_client.get("/sessions", headers=bob)))["sessions"] == []
    await check(await jwt_client.get("/sessions/s", headers=alice))


async def test_jwt_scopes(jwt_client: Client, issuer: JwtIssuer) -> None:
    def scoped(scope: str | None) -> dict[str, str]:
        return bearer(issuer.sign(claims(scope=scope), "ES256"))

    for scope, reads, writes, cleans in (
        (None, 200, 201, 403),
        ("read", 200, 403, 403),
        ("write", 200, 201, 403),
        ("admin openid", 200, 201, 200),
        ("openid", 403, 403, 403),
    ):
        headers = scoped(scope)
        assert (await jwt_client.get("/sessions", headers=headers)).status == reads
        assert (await jwt_client.post("/sessions", headers=headers)).status == writes
        assert (await jwt_client.post("/maintenance/cleanup", headers=headers)).status == cleans


async def test_bad_jwts_over_http(jwt_client: Client, issuer: JwtIssuer) -> None:
    good = issuer.sign(claims())
    bodiless = good.rpartition(".")[0] + "."
    for wrong in (
        bodiless,
        good[:-4] + "AAAA",
        issuer.sign(claims(aud="x")),
        issuer.sign(claims(exp=1)),
        "x.y.z",
    ):
        await check_refused(await jwt_client.get("/sessions", headers=bearer(wrong)))
    await check(await jwt_client.get("/sessions", headers=bearer(good)))


async def test_tokens_of_ours_count_beside_jwts(jwt_client: Client) -> None:
    text = await token(jwt_client, owner="alice")
    await check(await jwt_client.get("/sessions", headers=bearer(text)))
    await store_of(jwt_client).tokens.revoke(text)
    await check_refused(await jwt_client.get("/sessions", headers=bearer(text)))


async def test_without_keys_it_is_503(jwt_client: Client, issuer: JwtIssuer) -> None:
    issuer.status = 404
    response = await jwt_client.get("/sessions", headers=bearer(issuer.sign(claims())))
    await check_problem(response, 503, "issuer_unavailable")
    assert response.headers["Retry-After"]
    assert "WWW-Authenticate" not in response.headers
    # What needs no issuer goes on.
    await check(await jwt_client.get("/sessions", headers=bearer(await token(jwt_client))))


async def test_a_stream_ends_when_its_jwt_expires(jwt_client: Client, issuer: JwtIssuer) -> None:
    text = issuer.sign(claims(exp=claims()["iat"] + 1))
    await store_of(jwt_client).create_session("s", owner="alice")
    async with jwt_client.get("/sessions/s/events", headers=bearer(text)) as stream:
        assert stream.status == 200
        async with asyncio.timeout(LONG):
            await stream.read()


@pytest.mark.parametrize("given", ["auth_jwks_url", "auth_issuer", "auth_audience"])
def test_a_part_of_the_issuer_is_refused(given: str) -> None:
    values = {"auth_jwks_url": "https://issuer.example/keys", "auth_issuer": "i", "auth_audience": "a"}
    with pytest.raises(SettingsError) as refused:
        Settings(**{given: values[given]})
    missing = [f"AGENT_RUNTIME__{name.upper()}" for name in values if name != given]
    assert any(name in str(refused.value) for name in missing)
