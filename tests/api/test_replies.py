"""Replies as they stand on the wire, to each way in which a connection may be asked for."""

from __future__ import annotations

import json
import re
from asyncio import StreamReader
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import NamedTuple

import pytest

from runtime.api.responses import ALWAYS
from tests.support.api_server import USER, Client, append, make, serving
from tests.support.event_readers import LONG
from tests.support.slow_sockets import connected

pytestmark = pytest.mark.slow

JSON, PROBLEM = "application/json", "application/problem+json"
CREATE = '{"session_id": "%s"}'
# What is asked, and the status and type of the answer. Some of it may be asked once.
ASKED = {
    "health": ("GET", "/health", "", 200, JSON),
    "metrics": ("GET", "/metrics", "", 200, "text/plain; version=0.0.4; charset=utf-8"),
    "openapi": ("GET", "/openapi.json", "", 200, JSON),
    "a page": ("GET", "/sessions/s/messages", "", 200, JSON),
    "made": ("POST", "/sessions", '{"title": "ü🙂"}', 201, JSON),
    "deleted": ("DELETE", "/sessions/s", "", 204, None),
    "no such path": ("GET", "/nowhere", "", 404, PROBLEM),
    "no such session": ("GET", "/sessions/other", "", 404, PROBLEM),
    "no such method": ("TRACE", "/health", "", 405, PROBLEM),
    "bad input": ("POST", "/sessions/s/messages", '{"role": "nobody"}', 422, PROBLEM),
}


class Reply(NamedTuple):
    """A reply to the letter: its headers are a list, since one might stand there twice."""

    status_line: str
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for each, value in self.headers if each.lower() == name.lower()]

    def without(self, *names: str) -> list[tuple[str, str]]:
        """The other headers, in an order that says nothing."""
        return sorted((name.lower(), value) for name, value in self.headers if name.lower() not in names)


@pytest.fixture
async def client(sqlite_url: str) -> AsyncIterator[Client]:
    async with serving(sqlite_url) as client:
        await make(client)
        await append(client, USER, {"role": "user", "content": "ü🙂\x00"})
        yield client


def request(method: str, path: str, body: str = "", *headers: str, version: str = "1.1") -> bytes:
    given = ["Host: localhost", *headers]
    if body:
        given += ["Content-Type: application/json", f"Content-Length: {len(body.encode())}"]
    return "\r\n".join([f"{method} {path} HTTP/{version}", *given, "", body]).encode()


async def read_reply(reader: StreamReader, method: str = "GET") -> Reply:
    """The next reply; its body ends where it says."""
    status_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
    pairs = [line.split(": ", 1) for line in lines]
    reply = Reply(status_line, [(name, value) for name, value in pairs], b"")
    has_body = method != "HEAD" and " 204 " not in status_line
    [length] = reply.all("Content-Length") if has_body else ["0"]
    return reply._replace(body=await reader.readexactly(int(length)))


async def ask(client: Client, method: str, data: bytes) -> tuple[Reply, bool]:
    """The reply on a connection of its own, and whether that stays open."""
    async with connected(client) as (reader, writer):
        writer.write(data)
        reply = await read_reply(reader, method)
        # Who stays answers the next one; who does not says nothing more.
        writer.write(request("GET", "/health", "", "Connection: close"))
        with suppress(ConnectionError):
            rest = await reader.read()
            return reply, rest.startswith(b"HTTP/1.")
        return reply, False


def check_headers(reply: Reply) -> None:
    """What every reply has, each of it once."""
    names = [name.lower() for name, _ in reply.headers]
    assert len(names) == len(set(names)), names
    assert {name: reply.all(name) for name in ALWAYS} == {name: [value] for name, value in ALWAYS.items()}
    assert re.fullmatch(r"[0-9a-f-]+", reply.all("X-Request-ID")[0])
    late = datetime.now(UTC) - parsedate_to_datetime(reply.all("Date")[0])
    assert timedelta(0) <= late < timedelta(seconds=LONG)


def check_body(reply: Reply, status: int, kind: str | None) -> None:
    assert reply.all("Content-Type") == ([kind] if kind else [])
    if kind == PROBLEM:
        problem = json.loads(reply.body)
        assert (problem["status"], problem["request_id"]) == (status, reply.all("X-Request-ID")[0])
    elif kind is not None and "json" in kind:
        assert isinstance(json.loads(reply.body), dict)
    else:
        assert bool(reply.body) == (kind is not None)


@pytest.mark.parametrize("what", ASKED)
async def test_a_usual_reply_says_all_once_and_nothing_of_its_connection(client: Client, what: str) -> None:
    method, path, body, status, kind = ASKED[what]
    reply, stays = await ask(client, method, request(method, path, body))
    assert re.fullmatch(rf"HTTP/1\.1 {status} [A-Z][A-Za-z -]*", reply.status_line)
    check_headers(reply)
    check_body(reply, status, kind)
    assert len(reply.all("Content-Length")) == (status != 204)
    assert (reply.all("Connection"), stays) == ([], True)


# What is the same however often it is asked.
REPEATED = sorted(ASKED.keys() - {"made", "deleted", "metrics"})


@pytest.mark.parametrize("what", REPEATED)
async def test_the_last_reply_on_a_connection_differs_in_nothing_else(client: Client, what: str) -> None:
    """What aiohttp writes where a connection ends, and what we write ourselves where it stays."""
    method, path, body, *_ = ASKED[what]
    usual, _ = await ask(client, method, request(method, path, body))
    last, _ = await ask(client, method, request(method, path, body, "Connection: close"))
    apart = ("date", "x-request-id", "connection")
    assert last.status_line == usual.status_line
    assert last.without(*apart) == usual.without(*apart)


# The version and the headers of a request; what its reply says of both, and whether the connection stays.
WAYS = {
    "1.0": ("1.0", [], "HTTP/1.0", [], False),
    "1.0 and stays": ("1.0", ["Connection: keep-alive"], "HTTP/1.0", ["keep-alive"], True),
    "1.1 and stays": ("1.1", ["Connection: keep-alive"], "HTTP/1.1", [], True),
    "1.1 and goes": ("1.1", ["Connection: close"], "HTTP/1.1", ["close"], False),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", ["health", "a page", "made", "deleted", "no such session"])
async def test_each_way_to_ask_for_a_connection_is_answered_as_asked(
    client: Client, way: str, what: str
) -> None:
    version, headers, begins, said, stays_open = WAYS[way]
    method, path, body, status, kind = ASKED[what]
    reply, stays = await ask(client, method, request(method, path, body, *headers, version=version))
    assert reply.status_line.startswith(f"{begins} {status} ")
    check_headers(reply)
    check_body(reply, status, kind)
    assert (reply.all("Connection"), stays) == (said, stays_open)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("what", ["health", "a page", "no such session"])
async def test_head_is_answered_as_get_without_the_body(client: Client, what: str, version: str) -> None:
    path, kind = ASKED[what][1], ASKED[what][4]
    head, stays = await ask(client, "HEAD", request("HEAD", path, version=version))
    check_headers(head)
    assert head.all("Content-Type") == [kind]
    # Had a body come, it would stand where the next reply is looked for.
    assert stays is (version == "1.1")
    get, _ = await ask(client, "GET", request("GET", path, version=version))
    assert head.status_line == get.status_line
    assert head.all("Content-Length") == get.all("Content-Length") == [str(len(get.body))]


async def test_two_requests_in_one_packet_are_answered_in_order(client: Client) -> None:
    async with connected(client) as (reader, writer):
        page, made = ASKED["a page"], ASKED["made"]
        writer.write(
            request(*page[:2]) + request(*made[:3]) + request("GET", "/nowhere") + request(*page[:2])
        )
        replies = [await read_reply(reader) for _ in range(4)]
    assert [reply.status_line.split()[1] for reply in replies] == ["200", "201", "404", "200"]
    assert len({reply.all("X-Request-ID")[0] for reply in replies}) == 4
    for reply in replies:
        check_headers(reply)
    assert replies[0].body == replies[3].body
    contents = [message["content"] for message in json.loads(replies[0].body)["messages"]]
    assert contents == ["hello", "ü🙂\x00"]


async def test_headers_of_a_write_stand_there_once(client: Client) -> None:
    ask_once = request("POST", "/sessions", CREATE % "é/x", "Idempotency-Key: k", "X-Request-ID: mine")
    first, _ = await ask(client, "POST", ask_once)
    again, _ = await ask(client, "POST", ask_once)
    for reply in (first, again):
        check = {name: reply.all(name) for name in ("ETag", "Location", "X-Request-ID")}
        assert check == {"ETag": ['"1"'], "Location": ["/sessions/%C3%A9%2Fx"], "X-Request-ID": ["mine"]}
    assert (first.all("Idempotent-Replayed"), again.all("Idempotent-Replayed")) == ([], ["true"])
    assert first.body == again.body


@pytest.mark.parametrize(
    "data", [b"HELLO\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nbad\r\n\r\n"]
)
async def test_what_cannot_be_parsed_is_answered_as_the_last(client: Client, data: bytes) -> None:
    reply, stays = await ask(client, "GET", data)
    # Nobody knows what the client speaks: in HTTP/1.0 a connection ends where nothing is said of it.
    assert reply.status_line == "HTTP/1.0 400 Bad Request"
    check_headers(reply)
    check_body(reply, 400, PROBLEM)
    assert (reply.all("Connection"), stays) == ([], False)
