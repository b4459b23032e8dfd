"""A session followed live, as server-sent events (the HTML standard, section 9.2)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import msgspec
from aiohttp import web
from msgspec import Struct

from runtime.api.messages import Seq
from runtime.api.request import last_event_id
from runtime.api.routes import METRICS, PACE, REQUEST_ID, Call, Route
from runtime.errors import AgentRuntimeError
from runtime.models import ChangedEvent, MessageEvent
from runtime.store.feed import Follower

logger = logging.getLogger("agent_runtime.http")

COMMENT = b":\n\n"
HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class FollowQuery(Struct, frozen=True):
    after: Seq = 0


async def follow_session(call: Call[FollowQuery, None]) -> web.StreamResponse:
    """The messages from a number on, and then live, with every other change."""
    resumed = last_event_id(call.request)
    after = call.query.after if resumed is None else resumed
    response = web.StreamResponse(headers={**HEADERS, "X-Request-ID": call.request[REQUEST_ID]})
    async with call.store.follow(call.session_id, after=after, owner=call.owner) as follower:
        await response.prepare(call.request)
        if call.request.method != "HEAD":
            with call.request.app[METRICS].sse_streams.track_inprogress():
                await _stream(call.request, response, follower)
    return response


async def _stream(request: web.Request, response: web.StreamResponse, follower: Follower) -> None:
    """Send events until the store ends the stream or the reader goes away."""
    pace = request.app[PACE]
    try:
        while (events := await follower.events(pace.heartbeat)) is not None:
            async with asyncio.timeout(pace.patience):
                await response.write(encode_events(events))
    except TimeoutError:
        logger.warning("request %s: the reader has stalled and is cut off", request[REQUEST_ID])
        _cut_off(request)
    except ConnectionError:
        logger.debug("request %s: the reader went away", request[REQUEST_ID])
    except AgentRuntimeError as error:
        # The reply has begun, so it cannot become a problem: the reader comes back with its last id.
        logger.warning("request %s: the stream ends: %s", request[REQUEST_ID], error)


def _cut_off(request: web.Request) -> None:
    """End the connection without waiting for what the reader has not taken."""
    if request.transport is not None:
        request.transport.abort()


def encode_events(events: Sequence[MessageEvent | ChangedEvent]) -> bytes:
    """The events in the format of the stream; a comment where there are none."""
    return b"".join(map(_encode_event, events)) or COMMENT


def _encode_event(event: MessageEvent | ChangedEvent) -> bytes:
    if isinstance(event, MessageEvent):
        return b"id: %d\nevent: message\ndata: %b\n\n" % (event.seq, bytes(event.encoded))
    return b"event: changed\ndata: %b\n\n" % msgspec.json.encode(event)


ROUTES = (
    Route("GET", "/sessions/{session_id}/events", follow_session, {200: str}, media_type="text/event-stream"),
)
