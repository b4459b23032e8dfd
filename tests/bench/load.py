"""A load generator, to be run as a process of its own: it asks over many connections at once.

    python -m tests.bench.load METHOD URL CONNECTIONS SECONDS PATH…

prints how many replies a second came. Each connection asks again when it has its reply, going round the
paths; a POST carries the message. It speaks just enough HTTP that the server is the slower of the two.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
import time
from collections.abc import Iterator
from itertools import cycle
from typing import cast
from urllib.parse import urlsplit

from tests.bench import loops
from tests.bench.worker import MESSAGE

BODY = json.dumps(MESSAGE).encode()


def encode_request(method: str, host: str, path: str, body: bytes = BODY) -> bytes:
    """A POST of the message, or of another body; or a request without one."""
    if method != "POST":
        return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    head = (
        f"POST {path} HTTP/1.1",
        f"Host: {host}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join((*head, "", "")).encode() + body


class Connection(asyncio.Protocol):
    """Sends a request whenever a reply has come, until `deadline`, or until there is none left."""

    def __init__(self, requests: Iterator[bytes], deadline: float) -> None:
        self.replies = 0
        self.ended = asyncio.get_running_loop().create_future()
        self._requests = requests
        self._deadline = deadline
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asserted: uvloop's is of another family.
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def _ask(self) -> None:
        request = next(self._requests, b"") if time.perf_counter() < self._deadline else b""
        if request:
            self._transport.write(request)
        else:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end or len(body) < content_length(head):
            return
        if not head.startswith(b"HTTP/1.1 20"):
            self.ended.set_exception(AssertionError(self._received.decode()))
            return self._transport.abort()
        self._received = b""
        self.replies += 1
        self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


def content_length(head: bytes) -> int:
    """What the head of a reply says that its body is long."""
    return int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])


async def send(url: str, connections: int, requests: Iterator[bytes], deadline: float = math.inf) -> int:
    """Send the requests, until `deadline` by `time.perf_counter`, and return how many replies came."""
    place = urlsplit(url)
    host, port = place.hostname or "", place.port or 80
    loop = asyncio.get_running_loop()
    opened = [
        loop.create_connection(lambda: Connection(requests, deadline), host, port) for _ in range(connections)
    ]
    protocols = [protocol for _, protocol in await asyncio.gather(*opened)]
    await asyncio.gather(*(protocol.ended for protocol in protocols))
    return sum(protocol.replies for protocol in protocols)


async def main(method: str, url: str, connections: int, seconds: float, paths: list[str]) -> float:
    """Replies a second."""
    requests = cycle([encode_request(method, urlsplit(url).netloc, path) for path in paths])
    started = time.perf_counter()
    replies = await send(url, connections, requests, started + seconds)
    return replies / (time.perf_counter() - started)


if __name__ == "__main__":
    method, url, connections, seconds, *paths = sys.argv[1:]
    print(loops.run(main(method, url, int(connections), float(seconds), paths)))
