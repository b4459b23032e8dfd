"""Server-sent events (the HTML standard, section 9.2)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar

import msgspec
from aiohttp import web

from runtime.api.authorization import QUOTA_LEASE, is_still_admitted
from runtime.api.connection import Connection
from runtime.api.responses import LARGE, REQUEST_ID, forget_frames, stamp, write_pieces
from runtime.api.routes import EVENT_STREAM, METRICS, STREAM_TIMEOUTS
from runtime.errors import AgentRuntimeError

logger = logging.getLogger("agent_runtime.http")

COMMENT = b":\n\n"
HEADERS = {"Content-Type": EVENT_STREAM, "X-Accel-Buffering": "no"}

T = TypeVar("T")
# Waits for what is new up to some seconds: empty when nothing came, None at the end.
Source = Callable[[float], Awaitable[list[T] | None]]
# What is sent of it, in pieces that are not copied.
Encode = Callable[[list[T]], Iterable[bytes | msgspec.Raw]]


async def stream(
    request: web.Request,
    source: Source[T],
    encode: Encode[T],
    headers: Mapping[str, str] = {},
    first: bytes = b"",
) -> web.StreamResponse:
    """Send `first`, then the events of the source until it ends or the reader goes away.

    While the source is quiet a comment is sent from time to time.
    """
    # It has begun for good: from here on it counts as a stream alone.
    request[QUOTA_LEASE].give_back("requests")
    request[QUOTA_LEASE].give_back("bytes")
    response = web.StreamResponse(headers={**HEADERS, **headers})
    stamp(response, request[REQUEST_ID])
    try:
        await response.prepare(request)
        assert isinstance(request.protocol, Connection)
        request.protocol.streams = True
        if request.method != "HEAD":
            with request.app[METRICS].sse_streams.track_inprogress():
                if first:
                    await response.write(first)
                await _send(request, response, source, encode)
    except ConnectionError as error:
        forget_frames(error)
        logger.debug("request %s: the reader went away, or was cut off", request[REQUEST_ID])
    except AgentRuntimeError as error:
        # The reply has begun, so it cannot become a problem: the reader comes back with its last id.
        logger.warning("request %s: the stream ends: %s", request[REQUEST_ID], error)
    return response


async def _send(
    request: web.Request,
    response: web.StreamResponse,
    source: Source[T],
    encode: Encode[T],
) -> None:
    heartbeat = request.app[STREAM_TIMEOUTS].heartbeat
    while (events := await source(heartbeat)) is not None:
        # A token may be revoked, or expire, while its stream is open.
        if not await is_still_admitted(request):
            logger.info("request %s: the stream ends: its reader is not let in any more", request[REQUEST_ID])
            return
        if not events:
            await response.write(COMMENT)
            continue
        await _write_page(request, response, encode(events))
        # Nothing of it is kept while the next one is waited for.
        del events


async def _write_page(
    request: web.Request, response: web.StreamResponse, encoded: Iterable[bytes | msgspec.Raw]
) -> None:
    """Write a page of events: until its reader has taken it, it is in hand.

    Raises TooManyRequests, which ends the stream: its reader comes back, with the id of the last event.
    """
    pieces = list(encoded)
    size = sum([len(memoryview(piece)) for piece in pieces])
    if size <= LARGE:
        return await write_pieces(response, pieces)
    request[QUOTA_LEASE].take("bytes", size)
    await write_pieces(response, pieces)
    request[QUOTA_LEASE].give_back("bytes")
