"""A client that costs little and never rests: `python -m tests.faults.hammer URL …`, in a process of its own.

Each connection sends its next append as soon as the last one is answered. A refused one waits for as long
as `Retry-After` says, unless the client is rude. At the end, when nothing is left unanswered, prints as JSON
how often each status was the answer within the time, and how many messages each session was told to have got.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from collections import Counter
from urllib.parse import urlsplit

BODY = json.dumps({"role": "user", "content": "x" * 500}).encode()
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
PAUSE = re.compile(rb"\r\nretry-after: (\d+)", re.IGNORECASE)
# Seconds that the last answers may take.
PATIENCE = 30.0


class Tally:
    """What was answered: within the time by status, and over all what each session has got."""

    def __init__(self) -> None:
        self.answered: Counter[str] = Counter()
        self.stored: Counter[str] = Counter()
        self.waiting = 0
        self.is_over = False

    def note(self, session_id: str, status: str, head: bytes, body: bytes) -> None:
        """One answer."""
        self.waiting -= 1
        if status == "201":
            self.stored[session_id] += 1
        if b'"unconfirmed"' in body:
            # Stored or not: whoever compares has to know.
            self.stored["unconfirmed"] += 1
        if not self.is_over:
            self.answered[status] += 1
        if status in ("503", "429") and not PAUSE.search(head):
            self.answered["without Retry-After"] += 1


class Hammer(asyncio.Protocol):
    """One connection, which asks again and again until it is over."""

    def __init__(self, host: str, session_id: str, tally: Tally, rude: bool) -> None:
        self._request = request_for(host, session_id)
        self._session_id = session_id
        self._tally = tally
        self._rude = rude
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._tally.answered["closed"] += 1

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = LENGTH.search(head) if end else None
        if length is None or len(body) < int(length[1]):
            return
        self._received = b""
        self._tally.note(self._session_id, head[9:12].decode(), head, body)
        pause = PAUSE.search(head)
        if pause is None or self._rude:
            self.ask()
        else:
            asyncio.get_running_loop().call_later(int(pause[1]), self.ask)

    def ask(self) -> None:
        """Send the next, unless it is over."""
        if self._transport is not None and not self._tally.is_over:
            self._tally.waiting += 1
            self._transport.write(self._request)

    def close(self) -> None:
        """Go away."""
        if self._transport is not None:
            self._transport.abort()


def request_for(host: str, session_id: str) -> bytes:
    """An append, as it goes over the wire."""
    head = (
        f"POST /sessions/{session_id}/messages HTTP/1.1\r\nHost: {host}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"
    )
    return head.encode() + BODY


async def hammer(url: str, connections: int, seconds: float, sessions: int, rude: bool) -> Tally:
    """What is answered within so many seconds once all are connected, and what is behind that."""
    place = urlsplit(url)
    tally = Tally()
    hammers = []
    for number in range(connections):
        made = Hammer(place.netloc, f"hammered-{number % sessions}", tally, rude)
        await asyncio.get_running_loop().create_connection(lambda made=made: made, place.hostname, place.port)
        hammers.append(made)
    for made in hammers:
        made.ask()
    await asyncio.sleep(seconds)
    tally.is_over = True
    async with asyncio.timeout(PATIENCE):
        while tally.waiting and not tally.answered["closed"]:  # noqa: ASYNC110 - a tally has no event
            await asyncio.sleep(0.01)
    closed = tally.answered["closed"]
    for made in hammers:
        made.close()
    await asyncio.sleep(0)
    tally.answered["closed"] = closed
    return tally


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--rude", action="store_true")
    options = parser.parse_args()
    tally = asyncio.run(hammer(**vars(options)))
    print(json.dumps({"answered": tally.answered, "stored": tally.stored}))


if __name__ == "__main__":
    main()
