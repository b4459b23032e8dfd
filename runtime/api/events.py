"""A session followed live, as server-sent events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
from aiohttp import web
from msgspec import Struct

from runtime.api.event_schemas import SessionStream
from runtime.api.request import last_event_id
from runtime.api.routes import EVENT_STREAM, Call, Route
from runtime.api.streaming import stream
from runtime.models import ChangedEvent, MessageEvent, Seq


class FollowQuery(Struct, frozen=True):
    after: Seq = 0


async def follow_session(call: Call[FollowQuery, None]) -> web.StreamResponse:
    """The messages from a number on, and then live, with every other change.

    A number above the session's last one is from an erased session: `reset` follows, and all messages.
    """
    resumed = last_event_id(call.request)
    after = call.query.after if resumed is None else resumed
    async with call.store.follow(call.session_id, after=after, owner=call.owner) as follower:
        return await stream(call.request, follower.events, encode_events)


def encode_events(events: Sequence[MessageEvent | ChangedEvent]) -> Iterator[bytes | msgspec.Raw]:
    """The events in the format of the stream, in pieces."""
    for event in events:
        if isinstance(event, MessageEvent):
            yield b"id: %d\nevent: message\ndata: " % event.seq
            yield event.encoded
            yield b"\n\n"
        else:
            # With the id that begins anew: a reader that breaks off before the first message would come back
            # with the old one.
            id = b"id: 0\n" if event.is_reset else b""
            yield id + b"event: changed\ndata: %b\n\n" % msgspec.json.encode(event)


ROUTES = (
    Route(
        "GET", "/sessions/{session_id}/events", follow_session, {200: SessionStream}, media_type=EVENT_STREAM
    ),
)
