"""What is not HTTP, or is HTTP made to hurt: answered as a problem where it can be, cut off in time, and paid
for by nobody else."""

from __future__ import annotations

import asyncio
import json
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest

from tests.faults.bad_requests import (
    BOMBS,
    CONFLICTS,
    END,
    ENDLESS,
    GET,
    GOES_ON,
    HOST,
    ODDITIES,
    POST,
    SLOW,
    SMUGGLED,
    TOO_LARGE,
)
from tests.faults.conftest import Report
from tests.faults.paced_server import paced
from tests.faults.raw_http import (
    Play,
    Reply,
    connection,
    files_of,
    memory_of,
    read_all,
    sending,
    take_replies,
)
from tests.support.server_process import ServerProcess

# Seconds: what a request may take, what a reader may rest; and how long all of it may last on a busy machine.
READ_TIMEOUT, PATIENCE, SLACK = 1.0, 1.0, 20.0
# How many do the same at once; what that may take in memory, in MiB, beside what it took before.
CROWD, MEMORY = 200, 48.0
# It may open a few files of its own for good while it works.
OWN_FILES = 8
BODY_LIMIT = 2**20
PIPELINED = 10_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One for all of them: at the end it is as well as it was, and has complained of nothing."""
    env = {
        "DB_URL": f"sqlite:///{tmp_path_factory.mktemp('bad') / 'agent_runtime.db'}",
        "READ_TIMEOUT": str(READ_TIMEOUT),
        "MAX_BODY_BYTES": str(BODY_LIMIT),
        "ACCESS_LOG": "off",
    }
    with ServerProcess(env, command=paced(heartbeat=PATIENCE, patience=PATIENCE)) as server:
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
async def test_what_can_be_read_in_two_ways_is_not_read_at_all(server: ServerProcess, name: str) -> None:
    [reply] = await ask(server, CONFLICTS[name] + SMUGGLED)
    reply.check_problem(400, "malformed_request")


@pytest.mark.parametrize("name", TOO_LARGE)
async def test_a_head_has_its_bounds(server: ServerProcess, name: str) -> None:
    [reply] = await ask(server, TOO_LARGE[name] + SMUGGLED)
    reply.check_problem(431, "headers_too_large")


@pytest.mark.parametrize("name", ODDITIES)
async def test_what_is_unusual_is_answered_in_its_turn(server: ServerProcess, name: str) -> None:
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


@pytest.mark.parametrize("name", SLOW)
async def test_what_does_not_end_is_cut_off(server: ServerProcess, report: Report, name: str) -> None:
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
    # Where more comes, what is unread when the connection is closed can take the reply with it.
    assert len(replies) == len(got) or name in ENDLESS or (name in GOES_ON and len(replies) > len(got) / 2)
    assert replies


async def test_a_second_head_that_does_not_come(server: ServerProcess, report: Report) -> None:
    async def one() -> bytes:
        async with connection(server.url) as (reader, writer):
            await ask_health(reader, writer)
            writer.write(GET)
            return await read_all(reader)

    async with others_served(server, report), asyncio.timeout(SLACK):
        assert await asyncio.gather(*(one() for _ in range(CROWD))) == [b""] * CROWD


@pytest.mark.parametrize("name", BOMBS)
async def test_bombs_do_not_unfold(server: ServerProcess, report: Report, name: str) -> None:
    """They are refused as too large, or as what cannot be read; never do they take memory."""
    coding, body = BOMBS[name]
    head = POST + b"Connection: close\r\nContent-Encoding: %s\r\n" % coding
    async with others_served(server, report):
        got = await crowd(server, sending(head + b"Content-Length: %d\r\n\r\n" % len(body) + body), size=10)
    # What is unread when the connection is closed can take the reply with it.
    replies = [reply for each in got for reply in each]
    assert {reply.status for reply in replies} <= {400, 413, 415}
    assert {reply.headers["content-type"] for reply in replies} == {"application/problem+json"}


async def test_ten_thousand_requests_in_one_write(server: ServerProcess, report: Report) -> None:
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


async def test_readers_that_stop_reading_are_cut_off(server: ServerProcess, report: Report) -> None:
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
    # Each large one is 7 MiB, of which there may be copies, and those of the wave before while the machine is
    # busy; of the small ones no more than one waits each.
    assert peak < 4 * 10 * (7 + 1)


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
