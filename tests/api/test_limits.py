"""How much one client may have in hand over HTTP, and that all of it is given back."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import aiohttp
import pytest
from aiohttp import ClientResponse

from runtime.access.quotas import Kind
from runtime.api.authorization import AUTHORIZER, network_of
from runtime.api.routes import STORE, StreamTimeouts
from tests.support.api_server import USER, Client, check, check_problem, serving
from tests.support.event_readers import LONG
from tests.support.model_server import model_server, silence
from tests.support.token_issuer import bearer

pytestmark = pytest.mark.slow

KEY = {"X-Internal-Auth": "internal"}
QUICK = StreamTimeouts(heartbeat=0.05)
ADDRESS = "address 127.0.0.1"
JSON = {"Content-Type": "application/json"}
STREAM = "/agent/message/stream"
TURN = {"session_id": "s", "message": {"type": "user_message", "content": "Hi."}}


@asynccontextmanager
async def limited(url: str, **limits: object) -> AsyncIterator[Client]:
    """A client of a closed server with these limits, and a session of nobody's in it."""
    async with serving(url, internal_api_key="internal", pace=QUICK, **limits) as client:
        await client.app[STORE].create_session("s")
        yield client
        await nothing_held(client)


def held(client: Client, kind: Kind, who: str = ADDRESS) -> int:
    return client.app[AUTHORIZER].shares._held[who, kind]


async def until_held(client: Client, kind: Kind, amount: int, who: str = ADDRESS) -> None:
    """Wait until this is in hand: the server takes it when the request arrives."""
    async with asyncio.timeout(LONG):
        while held(client, kind, who) != amount:  # noqa: ASYNC110 - nothing tells when
            await asyncio.sleep(0.005)


async def nothing_held(client: Client) -> None:
    async with asyncio.timeout(LONG):
        while client.app[AUTHORIZER].shares._held:  # noqa: ASYNC110 - nothing tells when
            await asyncio.sleep(0.005)


async def check_too_many(response: ClientResponse) -> None:
    await check_problem(response, 429, "too_many_requests")
    assert int(response.headers["Retry-After"]) >= 1


class Body:
    """A body that is sent in two parts, the second of which waits."""

    def __init__(self, first: bytes = b'{"session_id": "x', second: bytes = b'y"}') -> None:
        self.go = asyncio.Event()
        self._first, self._second = first, second

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._first
        await self.go.wait()
        yield self._second


@asynccontextmanager
async def in_flight(
    client: Client, body: Body, headers: dict[str, str] = KEY
) -> AsyncIterator[asyncio.Task[int]]:
    """A request whose body has not arrived; the task gives its status."""

    async def send() -> int:
        async with client.post("/sessions", data=body, headers={**JSON, **headers}) as response:
            return response.status

    task = asyncio.create_task(send())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_requests_in_flight(database_url: str) -> None:
    async with limited(database_url, client_requests=2) as client, AsyncExitStack() as stack:
        bodies = [Body(), Body()]
        sent = [await stack.enter_async_context(in_flight(client, body)) for body in bodies]
        await until_held(client, "requests", 2)
        await check_too_many(await client.get("/sessions", headers=KEY))
        # A stranger is not looked up; what is public is told all the same.
        await check_too_many(await client.get("/sessions", headers=bearer("art_0a_1b")))
        await check(await client.get("/health"))
        bodies[0].go.set()
        assert await sent[0] == 201
        await check(await client.get("/sessions", headers=KEY))


async def test_bytes_in_flight(sqlite_url: str) -> None:
    async with limited(sqlite_url, client_bytes=1000) as client:
        large = Body(b'{"title": "' + b"x" * 900, b'"}')
        async with in_flight(client, large) as sent:
            await until_held(client, "bytes", 911)
            await check_too_many(await client.post("/sessions", json={"title": "y" * 100}, headers=KEY))
            await check(await client.post("/sessions", json={"title": "y" * 10}, headers=KEY), 201)
            large.go.set()
            # With nobody beside it one body may be as large as any.
            assert await sent == 201
        await check(await client.post("/sessions", json={"title": "y" * 5000}, headers=KEY), 201)


async def test_streams(database_url: str) -> None:
    async with (
        limited(database_url, client_streams=2, client_requests=3) as client,
        AsyncExitStack() as stack,
    ):
        for _ in range(2):
            await stack.enter_async_context(client.get("/sessions/s/events", headers=KEY))
        await until_held(client, "streams", 2)
        # They are no requests in flight any more.
        assert held(client, "requests") == 0
        await check_too_many(await client.get("/sessions/s/events", headers=KEY))
        await check(await client.get("/sessions", headers=KEY))
        await stack.aclose()
        await until_held(client, "streams", 0)
        async with client.get("/sessions/s/events", headers=KEY) as stream:
            assert stream.status == 200


async def test_a_stream_of_a_turn_holds_no_bytes_of_its_request(sqlite_url: str) -> None:
    hold = asyncio.Event()
    async with (
        model_server([silence(hold, "Hm")]) as model,
        limited(sqlite_url, llm_url=model.url, llm_retries=0) as client,
    ):
        async with client.post(STREAM, json=TURN, headers=KEY) as stream:
            assert stream.status == 200
            await until_held(client, "streams", 1)
            assert held(client, "bytes") == 0
        hold.set()


async def test_a_turn_that_is_refused_its_stream_is_not_begun(sqlite_url: str) -> None:
    """429 promises that the same may be asked again: nothing may have been done."""
    async with (
        limited(sqlite_url, client_streams=1) as client,
        client.get("/sessions/s/events", headers=KEY),
    ):
        await until_held(client, "streams", 1)
        await check_too_many(await client.post(STREAM, json=TURN, headers=KEY))
        assert (await client.app[STORE].list_turns("s")).turns == []
        assert (await client.app[STORE].get_session("s")).message_count == 0


async def test_a_head_of_a_stream_gives_all_back(sqlite_url: str) -> None:
    async with limited(sqlite_url) as client:
        assert (await client.head("/sessions/s/events", headers=KEY)).status == 200
        await nothing_held(client)


async def test_a_token_is_counted_from_all_its_addresses(sqlite_url: str) -> None:
    async with limited(sqlite_url, client_requests=1) as client:
        token, text = await client.app[STORE].tokens.create("test")
        async with in_flight(client, Body(), bearer(text)):
            await until_held(client, "requests", 1, f"token {token.id}")
            async with from_address("127.0.0.2", client) as elsewhere:
                async with elsewhere.get("/sessions", headers=bearer(text)) as response:
                    await check_too_many(response)
                # Another client has its own share.
                async with elsewhere.get("/sessions", headers=KEY) as response:
                    await check(response)


@asynccontextmanager
async def from_address(address: str, client: Client) -> AsyncIterator[aiohttp.ClientSession]:
    """A client with another address of this machine."""
    connector = aiohttp.TCPConnector(local_addr=(address, 0))
    base = f"http://{client.host}:{client.port}"
    async with aiohttp.ClientSession(base, connector=connector) as http:
        yield http


async def test_all_is_given_back_by_whoever_leaves_in_mid_body(sqlite_url: str) -> None:
    async with limited(sqlite_url) as client:
        async with in_flight(client, Body()):
            await until_held(client, "bytes", 17)
        await nothing_held(client)


async def test_all_is_given_back_when_the_body_is_late(sqlite_url: str) -> None:
    async with limited(sqlite_url, read_timeout=0.1) as client:
        async with in_flight(client, Body()) as sent:
            await until_held(client, "bytes", 17)
            with suppress(aiohttp.ClientError):
                assert await sent == 408
        await nothing_held(client)


async def test_all_is_given_back_by_handlers_that_are_cancelled(sqlite_url: str) -> None:
    async with limited(sqlite_url) as client, in_flight(client, Body()):
        await until_held(client, "bytes", 17)
        # As when the server is stopped and they do not end in time.
        for connection in client.server.runner.server.connections:
            connection._task_handler.cancel()
        await nothing_held(client)


@pytest.mark.parametrize("count", [150])
async def test_a_storm_leaves_nothing_behind(database_url: str, count: int) -> None:
    limits = {"client_requests": 20, "client_streams": 5, "client_bytes": 20_000, "read_timeout": 0.5}
    chance = random.Random(4)
    async with limited(database_url, max_body_bytes=10_000, **limits) as client:
        _, text = await client.app[STORE].tokens.create("test", scope="write")
        kinds = chance.choices([plain, broken, large, stranger, leaver, late, stream, turn], k=count)
        statuses = await asyncio.gather(*(ask(client, chance.choice([KEY, bearer(text)])) for ask in kinds))
        await nothing_held(client)
        assert {201, 422, 401, 429} <= set(statuses), set(statuses)
        await check(await client.get("/sessions", headers=KEY))


async def send(client: Client, method: str, path: str, **options: object) -> int:
    """The status; 0 where the server hangs up."""
    with suppress(aiohttp.ClientError, TimeoutError):
        async with client.request(method, path, **options) as response:  # type: ignore[arg-type]
            if response.content_type != "text/event-stream":
                await response.read()
            return response.status
    return 0


async def plain(client: Client, headers: dict[str, str]) -> int:
    return await send(client, "POST", "/sessions", json={"title": "x" * 500}, headers=headers)


async def broken(client: Client, headers: dict[str, str]) -> int:
    return await send(client, "POST", "/sessions", json={"title": 7}, headers=headers)


async def large(client: Client, headers: dict[str, str]) -> int:
    data = json.dumps({"title": "x" * 20_000}).encode()
    return await send(client, "POST", "/sessions", data=data, headers={**headers, **JSON})


async def stranger(client: Client, headers: dict[str, str]) -> int:
    return await send(client, "POST", "/sessions", json=USER, headers=bearer("art_0a_1b"))


async def leaver(client: Client, headers: dict[str, str]) -> int:
    async with in_flight(client, Body(), headers) as sent:
        await asyncio.wait({sent}, timeout=0.05)
    return 0


async def late(client: Client, headers: dict[str, str]) -> int:
    async with in_flight(client, Body(), headers) as sent:
        await asyncio.wait({sent}, timeout=5)
    return 0


async def stream(client: Client, headers: dict[str, str]) -> int:
    return await send(client, "GET", "/sessions/s/events", headers=headers)


async def turn(client: Client, headers: dict[str, str]) -> int:
    return await send(client, "POST", STREAM, json=TURN, headers=headers)


async def test_a_write_that_is_stored_is_not_refused_for_its_reply(database_url: str) -> None:
    async with limited(database_url, client_bytes=400_000, max_body_bytes=400_000) as client:
        messages = {"messages": [USER] * 5_000}
        async with client.post("/sessions/s/messages", json=messages, headers=KEY) as reply:
            assert len((await check(reply, 201))["messages"]) == 5_000


async def test_a_large_reply_is_in_hand_until_it_is_taken(database_url: str) -> None:
    async with limited(database_url, client_bytes=400_000) as client:
        await client.app[STORE].append_messages("s", [{"role": "user", "content": "x" * 300_000}])
        both = [client.get("/sessions/s/messages", headers=KEY) for _ in range(2)]
        replies = await asyncio.gather(*both)
        assert {reply.status for reply in replies} <= {200, 429}
        assert len(await replies[0].read()) > 300_000 or replies[0].status == 429


@pytest.mark.parametrize(
    ("address", "counted"),
    [("192.0.2.7", "192.0.2.7"), ("2001:db8::1:2:3", "2001:db8::/64"), ("fe80::1%eth0", "fe80::/64")],
)
def test_a_host_of_ipv6_counts_as_one_whatever_its_address(address: str, counted: str) -> None:
    assert network_of(address) == counted
