"""Server-sent events (the HTML standard, section 9.2)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from aiohttp import web

from runtime.api.routes import METRICS, PACE, REQUEST_ID, Pace
from runtime.errors import AgentRuntimeError

logger = logging.getLogger("agent_runtime.http")

EVENT_STREAM = "text/event-stream"
COMMENT = b":\n\n"
HEADERS = {"Content-Type": EVENT_STREAM, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

T = TypeVar("T")
# Waits for what is new up to some seconds: empty when nothing came, None at the end.
Source = Callable[[float], Awaitable[list[T] | None]]


async def stream(
    request: web.Request,
    source: Source[T],
    encode: Callable[[list[T]], bytes],
    headers: Mapping[str, str] = {},
) -> web.StreamResponse:
    """Send what the source gives until it ends or the reader goes away; a comment while it is quiet."""
    sent = {**HEADERS, **headers, "X-Request-ID": request[REQUEST_ID]}
    response = web.StreamResponse(headers=sent)
    try:
        await response.prepare(request)
        if request.method != "HEAD":
            with request.app[METRICS].sse_streams.track_inprogress():
                await _send(response, source, encode, request.app[PACE])
    except TimeoutError:
        logger.warning("request %s: the reader has stalled and is cut off", request[REQUEST_ID])
        _cut_off(request)
    except ConnectionError:
        logger.debug("request %s: the reader went away", request[REQUEST_ID])
    except AgentRuntimeError as error:
        # The reply has begun, so it cannot become a problem: the reader comes back with its last id.
        logger.warning("request %s: the stream ends: %s", request[REQUEST_ID], error)
    return response


async def _send(
    response: web.StreamResponse, source: Source[T], encode: Callable[[list[T]], bytes], pace: Pace
) -> None:
    while (events := await source(pace.heartbeat)) is not None:
        async with asyncio.timeout(pace.patience):
            await response.write(encode(events) if events else COMMENT)


def _cut_off(request: web.Request) -> None:
    """End the connection without waiting for what the reader has not taken."""
    if request.transport is not None:
        request.transport.abort()
