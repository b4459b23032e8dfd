"""Connections that are slow, silent or confused, over real sockets; requests that begin a few at a time."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from asyncio import StreamReader
from collections.abc import AsyncIterator
from itertools import count

import pytest

from runtime.api import throttle
from runtime.api.authorization import AUTHORIZER
from runtime.api.connection import MAX_HEAD
from runtime.api.routes import StreamTimeouts
from runtime.api.throttle import Throttle
from runtime.errors import Overloaded
from tests.support.api_server import Client, append, make, serving
from tests.support.event_readers import LONG, hearing
from tests.support.slow_sockets import connect, connected, connections, is_answered, lazy_socket, send, until

pytestmark = pytest.mark.slow

# Seconds that the head of a request may take here, and that a reader may take nothing.
HEAD, PATIENCE = 0.3, 0.1
GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture
async def hasty(sqlite_url: str) -> AsyncIterator[Client]:
    """A client of a server that does not wait long."""
    async with serving(sqlite_url, read_timeout=HEAD, pace=StreamTimeouts(patience=PATIENCE)) as client:
        yield client


async def read_reply(reader: StreamReader) -> tuple[int, dict[str, str], bytes]:
    """The status, the headers in lower case and the body of the next reply."""
    status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return int(status.split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


async def read_problem(reader: StreamReader, status: int, code: str) -> str:
    """The detail of the next reply, which must be this problem, with all that every reply has."""
    found, headers, body = await read_reply(reader)
    problem = json.loads(body)
    assert (found, problem["code"], headers["content-type"]) == (status, code, "application/problem+json")
    assert headers["x-request-id"] == problem["request_id"]
    assert headers["x-content-type-options"] == "nosniff"
    return str(problem["detail"])


@pytest.mark.parametrize("begun", [b"", b"GET", GET[:-2], b"\r\n"])
async def test_a_head_that_does_not_come_is_not_waited_for(hasty: Client, begun: bytes) -> None:
    async with connected(hasty) as (reader, writer):
        writer.write(begun)
        assert await reader.read() == b""


async def test_a_second_head_that_does_not_come_is_not_waited_for_either(hasty: Client) -> None:
    async with connected(hasty) as (reader, writer):
        writer.write(GET)
        assert (await read_reply(reader))[0] == 200
        writer.write(GET[:-2])
        assert await reader.read() == b""


async def test_a_head_that_trickles_is_not_waited_for(hasty: Client) -> None:
    async with connected(hasty) as (reader, writer):
        over = asyncio.create_task(reader.read())
        for byte in GET[:-2] * 2:
            writer.write(bytes([byte]))
            await asyncio.wait([over], timeout=HEAD / 5)
            if over.done():
                break
        assert await over == b""


async def test_a_connection_between_two_requests_may_be_idle(hasty: Client) -> None:
    """A body that comes in a packet of its own, as many clients send it, is not taken for the next head."""
    with lazy_socket() as sender:
        connection = await connect(hasty, sender)
        # Nobody reads it: there is nothing at this path.
        await send(sender, POST.replace(b"/sessions", b"/nowhere") + b"Content-Length: 2\r\n\r\n")
        # The moment at which it is in nobody's hands: taken from the queue, and not begun.
        await until(lambda: connection._request_count > 0 and not connection._messages)
        assert not connection._request_in_progress
        connection.data_received(b"{}")
        await until(lambda: is_answered(connection, 1))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2 * HEAD):
                await until(lambda: connection.transport is None)


async def test_a_head_is_bounded_as_a_whole(hasty: Client) -> None:
    """Not only its lines: a hundred of them may come slowly, on thousands of connections."""
    async with connected(hasty) as (reader, writer):
        writer.write(GET[:-2])
        for number in range(MAX_HEAD // 8000 + 1):
            writer.write(b"X-%d: %s\r\n" % (number, b"a" * 8000))
            await writer.drain()
        assert str(MAX_HEAD) in await read_problem(reader, 431, "headers_too_large")
        assert await reader.read() == b""


async def test_what_is_not_http_is_answered_as_a_problem(
    hasty: Client, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(hasty) as (reader, writer):
        writer.write(b"HELO example.org\r\n\r\n" + GET)
        await read_problem(reader, 400, "malformed_request")
        # What stands behind it is not read as another request.
        assert await reader.read() == b""
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_an_expectation_of_a_path_that_is_not_there(hasty: Client) -> None:
    async with connected(hasty) as (reader, writer):
        writer.write(b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nExpect: a miracle\r\n\r\n")
        await read_problem(reader, 417, "http_417")


async def test_a_body_that_is_not_wanted_is_not_read_for_ever(hasty: Client) -> None:
    async with connected(hasty) as (reader, writer):
        began = time.monotonic()
        writer.write(POST + b"Content-Length: 99999999\r\n\r\n{")
        await read_problem(reader, 413, "body_too_large")
        assert await reader.read() == b""
        assert time.monotonic() - began < 10 * HEAD


async def test_a_little_that_is_never_taken_is_cut_off_too(sqlite_url: str) -> None:
    """Less than asyncio calls much, on a connection that is to be closed behind it."""
    async with serving(sqlite_url, pace=StreamTimeouts(patience=PATIENCE)) as client:
        await make(client)
        await append(client, {"role": "user", "content": "x" * 30_000})
        with hearing("agent_runtime.http", "stalled") as cut_off, lazy_socket() as reader:
            connection = await connect(client, reader)
            line = connection.transport
            assert line is not None
            ask = b"GET /history/s HTTP/1.1\r\nHost: localhost\r\n\r\n"
            for number in count(1):
                await send(reader, ask)
                await until(lambda n=number: is_answered(connection, n) or line.get_write_buffer_size() > 0)
                if line.get_write_buffer_size():
                    break
            await send(reader, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            async with asyncio.timeout(LONG):
                await cut_off.wait()
            await until(lambda: connection not in connections(client))


async def test_a_lone_request_begins_at_once() -> None:
    begun = asyncio.create_task(Throttle(1).begin())
    await asyncio.sleep(0)
    assert begun.done()


async def begin_all(some: Throttle, count: int) -> list[int]:
    """How many have begun after each turn of the event loop, until all have."""
    order: list[int] = []

    async def begin(number: int) -> None:
        await some.begin()
        order.append(number)

    tasks = [asyncio.create_task(begin(number)) for number in range(count)]
    begun = []
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        begun.append(len(order))
    assert order == sorted(order), "they do not begin in the order in which they came"
    return begun


async def test_a_crowd_begins_in_order_a_few_in_each_turn() -> None:
    begun = await begin_all(Throttle(LONG), 3 * throttle.PER_TURN + 1)
    steps = [after - before for before, after in zip([0, *begun], begun, strict=False)]
    assert max(steps) <= throttle.PER_TURN
    assert begun[-1] == 3 * throttle.PER_TURN + 1


async def test_a_crowd_again_and_again_is_not_forgotten() -> None:
    """No wake-up is lost where one crowd is gone and the next comes."""
    some = Throttle(LONG)
    async with asyncio.timeout(LONG):
        for count in (1, throttle.PER_TURN, throttle.PER_TURN + 1, 2 * throttle.PER_TURN, 1, 500):
            assert (await begin_all(some, count))[-1] == count


async def test_those_who_go_away_keep_nobody_waiting() -> None:
    some = Throttle(LONG)
    waiting = [asyncio.create_task(some.begin()) for _ in range(4 * throttle.PER_TURN)]
    await asyncio.sleep(0)
    for task in waiting[throttle.PER_TURN :]:
        task.cancel()
    last = asyncio.create_task(some.begin())
    await asyncio.wait(waiting)
    async with asyncio.timeout(1):
        await last


async def test_who_has_waited_too_long_is_told_to_come_back() -> None:
    some = Throttle(0)
    crowd = [asyncio.create_task(some.begin()) for _ in range(throttle.PER_TURN + 1)]
    await asyncio.wait(crowd)
    assert all(task.exception() is None for task in crowd[:-1])
    assert isinstance(crowd[-1].exception(), Overloaded)


async def test_a_full_line_refuses_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "MOST_WAITING", 3)
    some = Throttle(LONG)
    begun = [asyncio.create_task(some.begin()) for _ in range(throttle.PER_TURN + 5)]
    results = await asyncio.gather(*begun, return_exceptions=True)
    assert [type(result) for result in results[-2:]] == [Overloaded, Overloaded]
    assert results[:-2] == [None] * (throttle.PER_TURN + 3)


async def test_what_comes_behind_a_head_that_is_too_long_is_not_kept(hasty: Client) -> None:
    with lazy_socket() as sender:
        connection = await connect(hasty, sender)
        await make(hasty, "quiet")
        await send(sender, b"GET /sessions/quiet/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: connection._request_in_progress)
        head = b"GET / HTTP/1.1\r\n" + b"".join(b"a%d: %b\r\n" % (n, b"b" * 8000) for n in range(9))
        for part in range(0, len(head), 1000):
            await send(sender, head[part : part + 1000])
        await until(lambda: connection._close)
        for _ in range(20):
            await send(sender, b"x")
        assert len(connection._messages) == 1


async def test_a_stream_ends_with_its_connection(hasty: Client) -> None:
    await make(hasty, "quiet")
    with lazy_socket() as sender:
        connection = await connect(hasty, sender)
        await send(sender, b"GET /sessions/quiet/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: connection.streams)
        assert hasty.app[AUTHORIZER].shares._held["address 127.0.0.1", "streams"] == 1
    # Long before the next heartbeat.
    await until(lambda: not hasty.app[AUTHORIZER].shares._held)


async def test_who_leaves_in_the_middle_of_a_large_reply_is_no_error(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(sqlite_url, max_body_bytes=2**25) as client:
        await make(client)
        for _ in range(20):
            await append(client, {"role": "user", "content": "x" * 900_000})
        with lazy_socket() as sender:
            connection = await connect(client, sender)
            await send(sender, b"GET /sessions/s/history HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await until(lambda: connection._paused)
        await until(lambda: connection not in connections(client))
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
