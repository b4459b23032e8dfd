"""What is not HTTP, or is HTTP made to hurt: answered as a problem where it can be, cut off in time, and paid
for by nobody else."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import zlib
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress

import pytest

from tests.faults.conftest import Report
from tests.faults.impatient import command
from tests.faults.raw_http import Reply, connection, files_of, memory_of, read_all, take_replies
from tests.server_process import ServerProcess

# Seconds: what a request may take, what a reader may rest; and how long all of it may last on a busy machine.
READ_TIMEOUT, PATIENCE, SLACK = 1.0, 1.0, 6.0
# How many do the same at once; what that may take in memory, in MiB, beside what it took before.
CROWD, MEMORY = 200, 48.0
# It may open a few files of its own for good while it works.
OWN_FILES = 8
BODY_LIMIT = 2**20
PIPELINED = 10_000

HOST = b"Host: localhost\r\n"
GET = b"GET /health HTTP/1.1\r\n" + HOST
POST = b"POST /sessions HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
END = b"\r\n"
SMUGGLED = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: smuggled\r\n\r\n"
JSON_CHUNK = b"2\r\n{}\r\n0\r\n\r\n"

# What cannot be read as one request in one way only. Behind it nothing may be read at all.
CONFLICTS = {
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "the same length twice": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a list of lengths": POST + b"Content-Length: 2, 2\r\n\r\n{}",
    "a signed length": POST + b"Content-Length: +2\r\n\r\n{}",
    "a negative length": POST + b"Content-Length: -2\r\n\r\n{}",
    "a hexadecimal length": POST + b"Content-Length: 0x2\r\n\r\n{}",
    "a length beyond all numbers": POST + b"Content-Length: 99999999999999999999\r\n\r\n{}",
    "a length with a space": POST + b"Content-Length: 2 0\r\n\r\n{}",
    "a length and chunks": POST + b"Content-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n" + JSON_CHUNK,
    "chunks and a length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 7\r\n\r\n" + JSON_CHUNK,
    "chunks, not the last coding": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n" + JSON_CHUNK,
    "no chunks": POST + b"Transfer-Encoding: xchunked\r\n\r\n" + JSON_CHUNK,
    "chunks twice": POST + b"Transfer-Encoding: chunked\r\n" * 2 + END + JSON_CHUNK,
    "chunks and identity": POST
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n"
    + JSON_CHUNK,
    "a name with a space behind": POST + b"Transfer-Encoding : chunked\r\n\r\n" + JSON_CHUNK,
    "a value with a control": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + JSON_CHUNK,
    "a chunk of no size": CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n",
    "a chunk of negative size": CHUNKED + b"-2\r\n{}\r\n0\r\n\r\n",
    "a chunk of size 0x2": CHUNKED + b"0x2\r\n{}\r\n0\r\n\r\n",
    "a chunk beyond all numbers": CHUNKED + b"f" * 17 + b"\r\n{}\r\n0\r\n\r\n",
    "chunks with bare line feeds": CHUNKED + b"2\n{}\n0\n\n",
    "a chunk longer than it says": CHUNKED + b"1\r\n{}\r\n0\r\n\r\n",
    "a line feed in an extension": CHUNKED + b"2;a\nb\r\n{}\r\n0\r\n\r\n",
    "a length in a trailer": CHUNKED + b"2\r\n{}\r\n0\r\nContent-Length: 5\r\n\r\n",
    "too many trailers": CHUNKED + b"2\r\n{}\r\n0\r\n" + b"X-A: b\r\n" * 5000 + END,
    "a folded line": GET + b"X-A: b\r\n c\r\n\r\n",
    "bare line feeds": b"GET /health HTTP/1.1\nHost: localhost\n\n",
    "a bare carriage return": GET + b"X-A: b\rc\r\n\r\n",
    "a NUL in a value": GET + b"X-A: b\0c\r\n\r\n",
    "a NUL in a name": GET + b"X\0A: b\r\n\r\n",
    "a NUL in a path": b"GET /hea\0lth HTTP/1.1\r\n" + HOST + END,
    "a space in a name": GET + b"X A: b\r\n\r\n",
    "no name": GET + b": b\r\n\r\n",
    "200 headers": GET + b"".join(b"X-%d: a\r\n" % n for n in range(200)) + END,
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "two hosts": GET + b"Host: elsewhere\r\n\r\n",
    "two content types": POST + b"Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}",
    "HTTP/0.9": b"GET /health\r\n",
    "HTTP/1.2": b"GET /health HTTP/1.2\r\n" + HOST + END,
    "HTTP/10.1": b"GET /health HTTP/10.1\r\n" + HOST + END,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(range(200)),
    "SSH": b"SSH-2.0-OpenSSH_9.0\r\n",
    "zeros": b"\0" * 100,
    "a method in small letters": b"get /health HTTP/1.1\r\n" + HOST + END,
    "no path": b"GET health HTTP/1.1\r\n" + HOST + END,
    "bytes in a path": b"GET /sessions/\xff HTTP/1.1\r\n" + HOST + END,
    "a port that is none": b"GET http://localhost:99999999/health HTTP/1.1\r\n" + HOST + END,
    "half an address": b"GET http://[/health HTTP/1.1\r\n" + HOST + END,
    "no method": b"G" * 9000 + b" /health HTTP/1.1\r\n" + HOST + END,
}
TOO_LARGE = {
    "a line too long": GET + b"X-A: " + b"a" * 9000 + b"\r\n\r\n",
    "a name too long": GET + b"a" * 9000 + b": b\r\n\r\n",
    "a path too long": b"GET /health?" + b"a" * 10**6 + b" HTTP/1.1\r\n" + HOST + END,
    "a head too large": GET + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 8000) for n in range(100)) + END,
}
# What is unusual, and plain all the same: it is answered, and so is what stands behind it.
ODDITIES = {
    "absolute": (b"GET http://localhost/health HTTP/1.1\r\n" + HOST + END, 200),
    "OPTIONS *": (b"OPTIONS * HTTP/1.1\r\n" + HOST + END, 404),
    "CONNECT": (b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST + END, 404),
    "websocket": (GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 200),
    "h2c": (
        GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n\r\n",
        200,
    ),
    "lines before": (b"\r\n\r\n" + GET + END, 200),
    "a body of a GET": (GET + b"Content-Length: 5\r\n\r\nhello", 200),
    "an expectation": (GET + b"Expect: a miracle\r\n\r\n", 200),
    "an expectation of nothing": (b"GET /nowhere HTTP/1.1\r\n" + HOST + b"Expect: a miracle\r\n\r\n", 417),
}

Play = Callable[[StreamReader, StreamWriter], Awaitable[object]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One for all of them: at the end it is as well as it was, and has complained of nothing."""
    env = {
        "DB_URL": f"sqlite:///{tmp_path_factory.mktemp('bad') / 'agent_runtime.db'}",
        "READ_TIMEOUT": str(READ_TIMEOUT),
        "MAX_BODY_BYTES": str(BODY_LIMIT),
        "ACCESS_LOG": "off",
    }
    with ServerProcess(env, command=command(PATIENCE)) as server:
        server.wait_until_listening()
        yield server
        assert server.stop() == 0
        assert "Traceback" not in server.log
        assert "ERROR" not in server.log


async def ask(server: ServerProcess, data: bytes) -> list[Reply]:
    """The replies to what is sent as it stands, until the server ends the connection."""
    async with asyncio.timeout(SLACK), connection(server.url) as (reader, writer):
        writer.write(data)
        return take_replies(await read_all(reader))


@pytest.mark.parametrize("name", CONFLICTS)
async def test_what_can_be_read_in_two_ways_is_not_read_at_all(server: ServerProcess, name: str):
    [reply] = await ask(server, CONFLICTS[name] + SMUGGLED)
    reply.check_problem(400, "malformed_request")


@pytest.mark.parametrize("name", TOO_LARGE)
async def test_a_head_has_its_bounds(server: ServerProcess, name: str):
    [reply] = await ask(server, TOO_LARGE[name] + SMUGGLED)
    reply.check_problem(431, "headers_too_large")


@pytest.mark.parametrize("name", ODDITIES)
async def test_what_is_unusual_is_answered_in_its_turn(server: ServerProcess, name: str):
    data, status = ODDITIES[name]
    async with asyncio.timeout(SLACK), connection(server.url) as (reader, writer):
        writer.write(data)
        received = b""
        while not (replies := take_replies(received)):
            received += await reader.read(65536)
        assert replies[0].status == status
        writer.write(SMUGGLED)
        while len(replies := take_replies(received)) < 2:
            received += await reader.read(65536)
        assert [reply.headers["x-request-id"] == "smuggled" for reply in replies] == [False, True]


@asynccontextmanager
async def others_served(server: ServerProcess, report: Report) -> AsyncIterator[None]:
    """Meanwhile others are answered within a second, and the memory of the server has its bound; afterwards
    it has no more files open than before."""
    async with connection(server.url) as (reader, writer):
        await ask_health(reader, writer)
        memory, files = memory_of(server.pid), files_of(server.pid)
        waits, peak, over = [0.0], memory, asyncio.Event()

        async def look() -> None:
            nonlocal peak
            while not over.is_set():
                waits.append(await ask_health(reader, writer))
                peak = max(peak, memory_of(server.pid))
                with suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), 0.1)

        looking = asyncio.create_task(look())
        try:
            yield
        finally:
            over.set()
            await looking
        report(others_waited_s=max(waits), memory_mib=peak - memory)
        assert max(waits) < 1
        assert peak - memory < MEMORY
        async with asyncio.timeout(SLACK):
            while files_of(server.pid) > files + OWN_FILES:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)


async def ask_health(reader: StreamReader, writer: StreamWriter) -> float:
    """How long it takes to be answered, in seconds."""
    began = time.monotonic()
    writer.write(GET + END)
    received = b""
    while not take_replies(received):
        received += await reader.read(65536)
    return time.monotonic() - began


async def crowd(server: ServerProcess, play: Play, size: int = CROWD) -> list[list[Reply]]:
    """What each of many gets that do the same, until the server has cut all of them off."""

    async def one() -> list[Reply]:
        async with connection(server.url) as (reader, writer):
            playing = asyncio.ensure_future(play(reader, writer))
            try:
                return take_replies(await read_all(reader))
            finally:
                playing.cancel()
                with suppress(asyncio.CancelledError, OSError):
                    await playing

    async with asyncio.timeout(SLACK + READ_TIMEOUT):
        return await asyncio.gather(*(one() for _ in range(size)))


def sending(*parts: bytes, every: float = 0.0) -> Play:
    """Sends one part after another, and pauses for so many seconds behind each."""

    async def play(_: StreamReader, writer: StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(every)

    return play


def forever(first: bytes, part: bytes, every: float = 0.0) -> Play:
    """Sends the first, and then the part again and again."""

    async def play(_: StreamReader, writer: StreamWriter) -> None:
        writer.write(first)
        while True:
            await asyncio.sleep(every)
            writer.write(part)
            await writer.drain()

    return play


BEGUN = POST + b"Content-Length: 1000\r\n\r\n"
EXPECTING = POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
# What never ends, and how it is answered; None: there is nothing that could be answered.
SLOW: dict[str, tuple[Play, tuple[int, str] | None]] = {
    "nothing": (sending(), None),
    "half a head": (sending(GET), None),
    "a head byte by byte": (sending(*(bytes([byte]) for byte in GET * 20), every=0.2), None),
    "empty lines": (forever(b"", END, every=0.2), None),
    "half a body": (sending(BEGUN + b"{"), (408, "request_timeout")),
    "a body byte by byte": (forever(BEGUN, b" ", every=0.2), (408, "request_timeout")),
    "chunks of a byte": (forever(CHUNKED, b"1\r\n \r\n" * 10, every=0.02), (408, "request_timeout")),
    "half a chunk": (sending(CHUNKED + b"5\r\n{"), (408, "request_timeout")),
    "half the size of a chunk": (sending(CHUNKED + b"5"), (408, "request_timeout")),
    "an extension of a chunk": (forever(CHUNKED + b"5;", b"a" * 100, every=0.05), (408, "request_timeout")),
    "nothing after 100 Continue": (sending(EXPECTING), (408, "request_timeout")),
    "a body that has no end": (
        forever(CHUNKED, b"10000\r\n" + b" " * 65536 + b"\r\n"),
        (413, "body_too_large"),
    ),
    "a body far too long": (
        forever(POST + b"Content-Length: 9999999999\r\n\r\n", b" " * 65536),
        (413, "body_too_large"),
    ),
}
ENDLESS = {"a body that has no end", "a body far too long"}


@pytest.mark.parametrize("name", SLOW)
async def test_what_does_not_end_is_cut_off(server: ServerProcess, report: Report, name: str):
    play, answer = SLOW[name]
    async with others_served(server, report):
        # What comes as fast as it can is work for this process too.
        got = await crowd(server, play, size=CROWD // 10 if name in ENDLESS else CROWD)
    replies = [reply for each in got for reply in each]
    if answer is None:
        assert replies == []
        return
    for reply in replies:
        reply.check_problem(*answer)
    # Where it comes without end, what is unread when the connection is closed can take the reply with it.
    assert len(replies) == len(got) or name in ENDLESS
    assert replies


async def test_a_second_head_that_does_not_come(server: ServerProcess, report: Report):
    async def one() -> bytes:
        async with connection(server.url) as (reader, writer):
            await ask_health(reader, writer)
            writer.write(GET)
            return await read_all(reader)

    async with others_served(server, report), asyncio.timeout(SLACK):
        assert await asyncio.gather(*(one() for _ in range(CROWD))) == [b""] * CROWD


def bombs() -> dict[str, tuple[bytes, bytes]]:
    """The coding and the body: 64 MiB of spaces in a thousandth of them, and that once more."""
    spaces = b" " * 2**26
    packed = gzip.compress(spaces)
    return {
        "gzip": (b"gzip", packed),
        "deflate": (b"deflate", zlib.compress(spaces)),
        "gzip of gzip": (b"gzip", gzip.compress(packed)),
        "said to be gzip of gzip": (b"gzip, gzip", gzip.compress(packed)),
        "br": (b"br", packed),
        "zstd": (b"zstd", packed),
    }


BOMBS = bombs()


@pytest.mark.parametrize("name", BOMBS)
async def test_bombs_do_not_unfold(server: ServerProcess, report: Report, name: str):
    """They are refused as too large, or as what cannot be read; never do they take memory."""
    coding, body = BOMBS[name]
    head = POST + b"Connection: close\r\nContent-Encoding: %s\r\n" % coding
    async with others_served(server, report):
        got = await crowd(server, sending(head + b"Content-Length: %d\r\n\r\n" % len(body) + body), size=10)
    # What is unread when the connection is closed can take the reply with it.
    replies = [reply for each in got for reply in each]
    assert {reply.status for reply in replies} <= {400, 413, 415}
    assert {reply.headers["content-type"] for reply in replies} == {"application/problem+json"}


async def test_ten_thousand_requests_in_one_write(server: ServerProcess, report: Report):
    """Nobody reads the replies until all are sent: they wait in bounds, and come in order."""
    requests = b"".join(GET + b"X-Request-ID: n%d\r\n\r\n" % n for n in range(PIPELINED))
    async with others_served(server, report), asyncio.timeout(60), connection(server.url) as (reader, writer):
        writer.write(requests)
        await asyncio.sleep(PATIENCE / 2)
        received = bytearray()
        while received.count(b"HTTP/1.1 200 OK") < PIPELINED or not received.endswith(b"}"):
            received += await reader.read(2**20)
    names = [line.split()[1] for line in bytes(received).split(b"\r\n") if line.startswith(b"X-Request-ID")]
    assert names == [b"n%d" % n for n in range(PIPELINED)]


async def test_readers_that_stop_reading_are_cut_off(server: ServerProcess, report: Report):
    """Large replies, and many small ones behind each other: neither waits in memory for ever."""
    await fill(server, "large", 8, 900_000)
    large = b"GET /history/large HTTP/1.1\r\n" + HOST + END
    page = b"GET /sessions/large/messages?last=1 HTTP/1.1\r\n" + HOST + END
    memory, files = memory_of(server.pid), files_of(server.pid)
    async with asyncio.timeout(60):
        for _ in range(3):
            await stall(server, [large] * 10 + [page * 200] * 10)
        peak = memory_of(server.pid) - memory
        while files_of(server.pid) > files + OWN_FILES:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
    report(memory_mib=peak)
    # Each large one is 7 MiB, of which there may be a copy; of the small ones no more than one waits each.
    assert peak < 2 * 10 * (7 + 1)


async def fill(server: ServerProcess, session: str, messages: int, size: int) -> None:
    """A session with so many messages of so many characters."""
    bodies = [json.dumps({"session_id": session}).encode()]
    bodies += [json.dumps({"role": "user", "content": "x" * size}).encode()] * messages
    paths = ["/sessions"] + [f"/sessions/{session}/messages"] * messages
    async with connection(server.url) as (reader, writer):
        for path, body in zip(paths, bodies, strict=True):
            head = POST.replace(b"/sessions", path.encode()) + b"Content-Length: %d\r\n\r\n" % len(body)
            writer.write(head + body)
            received = b""
            while not (replies := take_replies(received)):
                received += await reader.read(65536)
            assert replies[0].status == 201


async def stall(server: ServerProcess, requests: list[bytes]) -> None:
    """Ask, and take nothing, until the server has had enough of all; others are served."""
    enough = server.log.count("has stalled") + len(requests)

    async def one(request: bytes) -> None:
        async with connection(server.url, takes=4096) as (_, writer):
            writer.write(request)
            while server.log.count("has stalled") < enough:  # noqa: ASYNC110 - a log has no event
                await asyncio.sleep(0.02)

    async with connection(server.url) as (reader, writer):
        stalling = asyncio.gather(*map(one, requests))
        while not stalling.done():
            assert await ask_health(reader, writer) < 1
            await asyncio.sleep(0.05)
        await stalling
