"""The dialects of the stream of a turn: what every dialect does, and the native one of the HTTP contract."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import msgspec
from aiohttp import web
from msgspec import Raw

from runtime.agents.turn_messages import TurnMessage
from runtime.errors import AgentRuntimeError
from runtime.models import TurnEvent

# Encodes pages of the events of one stream, in pieces that are not copied.
Encode = Callable[[Sequence[TurnEvent]], Iterable[bytes | Raw]]


class StreamDialect(Protocol):
    """How the events of a turn are sent, and how a message that starts one is understood."""

    lists_all_sessions: bool
    """Whether `GET /sessions` without a query is a page of the largest length, with the total."""

    def understand(self, message: TurnMessage) -> TurnMessage:
        """The message as its client means it."""

    def session_info(self, session_id: str) -> bytes:
        """The event that names a session which was created for the client."""

    def encoder(self) -> Encode:
        """A function that encodes the events of one stream."""

    def error_reply(self, error: AgentRuntimeError) -> web.Response | None:
        """The reply to an error of a request that starts a turn; None for a problem."""


class NativeDialect:
    """The dialect of the HTTP contract."""

    lists_all_sessions = False

    def understand(self, message: TurnMessage) -> TurnMessage:
        return message

    def session_info(self, session_id: str) -> bytes:
        return b"event: session_info\ndata: %b\n\n" % msgspec.json.encode({"session_id": session_id})

    def encoder(self) -> Encode:
        return encode_events

    def error_reply(self, error: AgentRuntimeError) -> web.Response | None:
        return None


def encode_events(events: Sequence[TurnEvent]) -> Iterator[bytes | Raw]:
    """Events in the native format of the stream, in pieces."""
    for event in events:
        yield b"id: %b\nevent: %b\ndata: " % (event.id.encode(), event.name.encode())
        yield event.data
        yield b"\n\n"
