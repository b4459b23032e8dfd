"""A load generator, to be run as a process of its own: it POSTs over many connections at once.

    python -m tests.bench.load URL CONNECTIONS SECONDS PATH…

prints how many replies a second came. Each connection asks again when it has its reply, going round the
paths. It speaks just enough HTTP that the server is the slower of the two.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from itertools import cycle
from typing import cast
from urllib.parse import urlsplit

from tests.bench import loops
from tests.bench.append import MESSAGE

BODY = json.dumps(MESSAGE).encode()


def encode_request(host: str, path: str) -> bytes:
    """A POST of the message."""
    head = (
        f"POST {path} HTTP/1.1",
        f"Host: {host}",
        "Content-Type: application/json",
        f"Content-Length: {len(BODY)}",
    )
    return "\r\n".join((*head, "", "")).encode() + BODY


class Connection(asyncio.Protocol):
    """Sends a request whenever a reply has come, until `deadline`."""

    def __init__(self, requests: Iterator[bytes], deadline: float) -> None:
        self.replies = 0
        self.ended = asyncio.get_running_loop().create_future()
        self._requests = requests
        self._deadline = deadline
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asserted: uvloop's is of another family.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end or len(body) < content_length(head):
            return
        if not head.startswith(b"HTTP/1.1 201"):
            self.ended.set_exception(AssertionError(self._received.decode()))
            return self._transport.abort()
        self._received = b""
        self.replies += 1
        if time.perf_counter() < self._deadline:
            self._transport.write(next(self._requests))
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


def content_length(head: bytes) -> int:
    """What the head of a reply says that its body is long."""
    return int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])


async def main(url: str, connections: int, seconds: float, paths: list[str]) -> float:
    """Replies a second."""
    place = urlsplit(url)
    host, port = place.hostname or "", place.port or 80
    requests = cycle([encode_request(place.netloc, path) for path in paths])
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    opened = [
        loop.create_connection(lambda: Connection(requests, started + seconds), host, port)
        for _ in range(connections)
    ]
    protocols = [protocol for _, protocol in await asyncio.gather(*opened)]
    await asyncio.gather(*(protocol.ended for protocol in protocols))
    return sum(protocol.replies for protocol in protocols) / (time.perf_counter() - started)


if __name__ == "__main__":
    url, connections, seconds, *paths = sys.argv[1:]
    print(loops.run(main(url, int(connections), float(seconds), paths)))
