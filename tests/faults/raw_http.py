"""HTTP by hand, for what no client library would send, and what the process that gets it looks like."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

Play = Callable[[StreamReader, StreamWriter], Awaitable[object]]

LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
# What every reply has, and one that is not a reply to anything has not.
ALWAYS = ("x-request-id", "x-content-type-options", "content-security-policy", "cache-control")


class Reply(NamedTuple):
    """One reply, with the names of its headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def check_problem(self, status: int, code: str) -> None:
        """It must be this problem, with all that every reply has."""
        assert self.status == status, self
        problem: Any = json.loads(self.body)
        assert (problem["status"], problem["code"]) == (status, code), problem
        assert self.headers["content-type"] == "application/problem+json"
        assert self.headers["x-request-id"] == problem["request_id"]
        assert set(ALWAYS) <= set(self.headers)


def take_replies(data: bytes) -> list[Reply]:
    """The replies that stand here whole, one behind another; `100 Continue` is none."""
    replies = []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if not end or (length and len(data) < int(length[1])):
            break
        size = int(length[1]) if length else 0
        status, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        if " 100 " not in status:
            replies.append(Reply(int(status.split()[1]), headers, data[:size]))
        data = data[size:]
    return replies


@asynccontextmanager
async def connection(
    url: str, *, takes: int | None = None
) -> AsyncIterator[tuple[StreamReader, StreamWriter]]:
    """One that is closed at the end; with `takes` it holds as few bytes of what it does not read."""
    place = urlsplit(url)
    with socket.socket() as made:
        made.setblocking(False)
        if takes is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, takes)
        await asyncio.get_running_loop().sock_connect(made, (place.hostname, place.port))
        reader, writer = await asyncio.open_connection(sock=made, limit=takes or 2**20)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()


async def read_all(reader: StreamReader) -> bytes:
    """What comes until the connection ends, in whichever way."""
    received = b""
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            received += data
    return received


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


def memory_of(pid: int) -> float:
    """What a process has in memory, in MiB."""
    with open(f"/proc/{pid}/statm") as sizes:
        return int(sizes.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def files_of(pid: int) -> int:
    """How many files and sockets a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))
