"""Sockets of a client that takes its time, and what the server knows of them."""

from __future__ import annotations

import asyncio
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, cast

from runtime.api.connection import Connection
from tests.support.api_server import Client
from tests.support.event_readers import LONG


@asynccontextmanager
async def connected(client: Client) -> AsyncIterator[tuple[StreamReader, StreamWriter]]:
    """A connection, for as long as a test may take."""
    reader, writer = await asyncio.open_connection(client.host, client.port)
    try:
        async with asyncio.timeout(LONG):
            yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def raw(client: Client, *lines: bytes) -> bytes:
    """The whole answer to a request of these header lines, which no client library would send."""
    head = (b"GET /sessions HTTP/1.1", b"Host: 127.0.0.1", b"Connection: close", *lines, b"", b"")
    async with connected(client) as (reader, writer):
        writer.write(b"\r\n".join(head))
        return await reader.read()


@contextmanager
def lazy_socket() -> Iterator[socket.socket]:
    """One that takes as little as may be."""
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.setblocking(False)
        yield reader


async def connect(client: Client, reader: socket.socket) -> Connection:
    """The connection that the server has of this one."""
    others = connections(client)
    await asyncio.get_running_loop().sock_connect(reader, (client.host, client.port))
    await until(lambda: connections(client) > others)
    [connection] = connections(client) - others
    return connection


async def send(sender: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sender, data)


def is_answered(connection: Connection, number: int) -> bool:
    """Whether so many requests have come, and are over."""
    return (
        connection._request_count == number
        and not connection._messages
        and not connection._request_in_progress
        and connection._waiter is not None
    )


def connections(client: Client) -> set[Connection]:
    """Those that the server has."""
    runner = client.server.runner
    assert runner is not None
    assert runner.server is not None
    return set(cast(Any, runner.server.connections))


async def until(condition: Callable[[], bool]) -> None:
    """Wait, turn by turn of the event loop, since of this nobody tells."""
    async with asyncio.timeout(LONG):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)
