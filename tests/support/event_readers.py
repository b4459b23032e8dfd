"""Readers of event streams: event by event, or one that stalls."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from aiohttp import ClientResponse

from tests.support.api_server import Client, Json

# Seconds: longer than any test may take.
LONG = 20


async def next_event(response: ClientResponse) -> dict[str, Json]:
    """The next event's fields; its data decoded. A comment is the field with the empty name."""
    fields: dict[str, Json] = {}
    async with asyncio.timeout(LONG):
        while line := (await response.content.readline()).decode().rstrip("\n"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
    assert fields, "the stream has ended"
    if "data" in fields:
        fields["data"] = json.loads(fields["data"])
    return fields


class Heard(logging.Handler):
    """Waits for a line of the log."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.heard = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self.text in record.getMessage():
            self.heard.set()


@contextmanager
def hearing(logger: str, text: str) -> Iterator[asyncio.Event]:
    """An event that is set when a line of this log has the text."""
    line = Heard(text)
    logging.getLogger(logger).addHandler(line)
    try:
        yield line.heard
    finally:
        logging.getLogger(logger).removeHandler(line)


@asynccontextmanager
async def stalled_reader(client: Client, request: str) -> AsyncIterator[None]:
    """Somebody who sends a request and takes nothing of the reply."""
    loop = asyncio.get_running_loop()
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.setblocking(False)
        await loop.sock_connect(reader, (client.host, client.port))
        await loop.sock_sendall(reader, request.encode())
        yield
