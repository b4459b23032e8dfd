"""Server-sent events, as the load reads them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp


async def read_messages(reply: aiohttp.ClientResponse) -> AsyncIterator[tuple[int, Any]]:
    """The number and the data of each `message` of a session's stream, as they come."""
    received = b""
    async for piece in reply.content.iter_any():
        *events, received = (received + piece).split(b"\n\n")
        for event in events:
            fields = dict(line.split(": ", 1) for line in event.decode().split("\n") if ": " in line)
            if fields.get("event") == "message":
                yield int(fields["id"]), json.loads(fields["data"])
