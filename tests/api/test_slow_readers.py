"""Readers that take little at a time are borne with, those that take nothing are not. Time is made up."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count

import pytest

from runtime.api.connection import LOOKS, Connection
from runtime.api.routes import StreamTimeouts
from tests.support.api_server import Client, append, make, serving
from tests.support.event_readers import LONG
from tests.support.slow_sockets import connect, connections, lazy_socket, send, until

# Seconds: the server itself never comes to look, so that each look is one of ours.
PATIENCE = 1000.0
# A socket of the server's holds as little as the system lets it.
HELD = 4096
# More than the stream of a session sends in one piece.
MESSAGES, SIZE = 250, 500
HISTORY, STREAM, EXPORT = "/sessions/s/history", "/sessions/s/events", "/sessions/s/export"


class Reader:
    """A connection that asked for something, and takes of it what it is told to."""

    def __init__(self, client: Client, connection: Connection, end: socket.socket) -> None:
        self._client, self._connection, self._end = client, connection, end
        self._now = 0.0
        self.taken = 0

    @property
    def left(self) -> int:
        """What the server has not got rid of yet."""
        line = self._connection._line
        return 0 if line is None else line.get_write_buffer_size()

    @property
    def is_cut_off(self) -> bool:
        line = self._connection._line
        return line is None or line.is_closing()

    async def take(self, size: int) -> int:
        """Take so much, if there is so much, and let the server send what there is room for."""
        before = self.left
        got = 0
        while got < size and (data := await self._read()):
            got += len(data)
        self.taken += got
        if before:
            await until(lambda: self.left != before or self.is_cut_off)
        return got

    async def _read(self) -> bytes:
        try:
            async with asyncio.timeout(LONG):
                return await asyncio.get_running_loop().sock_recv(self._end, HELD)
        except ConnectionError:
            return b""

    def look(self, seconds: float) -> None:
        """Let so much time pass, and the server look."""
        self._now += seconds
        self._connection.cut_off_if_stalled(self._now)


@pytest.fixture
async def client(sqlite_url: str) -> AsyncIterator[Client]:
    async with serving(sqlite_url, pace=StreamTimeouts(patience=PATIENCE, heartbeat=PATIENCE)) as client:
        await make(client)
        message = {"role": "user", "content": "x" * SIZE}
        for _ in range(5):
            await append(client, *[message] * (MESSAGES // 5))
        yield client


@asynccontextmanager
async def asking(client: Client, path: str) -> AsyncIterator[Reader]:
    """A reader for whom more waits than the sockets hold."""
    with lazy_socket() as end:
        connection = await connect(client, end)
        line = connection._line
        assert line is not None
        line.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, HELD)
        await send(end, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await until(lambda: line.get_write_buffer_size() > 0)
        yield Reader(client, connection, end)
        line.abort()
    await until(lambda: connection not in connections(client))


def looks(times: int) -> Iterator[float]:
    """The seconds between looks that come often enough."""
    for _ in range(times):
        yield PATIENCE / LOOKS


@pytest.mark.parametrize("path", [HISTORY, STREAM, EXPORT])
async def test_who_takes_nothing_is_cut_off_when_patience_is_over(client: Client, path: str) -> None:
    async with asking(client, path) as reader:
        for seconds in looks(LOOKS):
            reader.look(seconds)
            assert not reader.is_cut_off
        reader.look(PATIENCE / LOOKS)
        assert reader.is_cut_off


@pytest.mark.parametrize("path", [HISTORY, STREAM, EXPORT])
async def test_who_takes_a_little_in_time_and_then_nothing_is_cut_off(client: Client, path: str) -> None:
    async with asking(client, path) as reader:
        for _ in range(3):
            for seconds in looks(LOOKS):
                reader.look(seconds)
            await reader.take(HELD)
            assert not reader.is_cut_off
        for seconds in looks(LOOKS + 1):
            reader.look(seconds)
        assert reader.is_cut_off


@pytest.mark.parametrize("path", [HISTORY, STREAM, EXPORT])
async def test_who_takes_a_little_between_any_two_looks_gets_it_all(client: Client, path: str) -> None:
    async with asking(client, path) as reader:
        for turn in count():
            await reader.take(HELD)
            reader.look(PATIENCE / LOOKS)
            assert not reader.is_cut_off, f"cut off at look {turn}, with {reader.taken} bytes taken"
            if reader.taken > MESSAGES * SIZE:
                break


async def test_who_has_taken_all_may_wait_as_long_as_it_likes(client: Client) -> None:
    async with asking(client, HISTORY) as reader:
        while reader.left:
            await reader.take(HELD)
        for seconds in looks(10 * LOOKS):
            reader.look(seconds)
            assert not reader.is_cut_off
