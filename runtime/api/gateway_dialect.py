"""The gateway dialect of the stream of a turn, for the clients of the earlier service.

Those clients show each `data:` line as one message. So an answer is sent once and whole, no object is sent
that would be shown as an empty message, and an error is an object of the stream, under status 200. Chosen by
`STREAM_DIALECT=gateway`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Raw, Struct

from runtime.agents.turn_messages import SwitchAgentMessage, TurnMessage
from runtime.api.responses import Reply
from runtime.api.stream_dialects import Encode
from runtime.errors import AgentRuntimeError
from runtime.models import TurnEvent

EMPTY_ANSWER = "the language model gave an empty answer"
# Those clients stop reading at the name of this event.
END = b'event: done\ndata: {"type":"done","is_final":true}\n\n'


class GatewayDialect:
    """Implements StreamDialect."""

    lists_all_sessions = True

    def understand(self, message: TurnMessage) -> TurnMessage:
        """Drop the text beside a choice of an agent: a remark of the client, not of its user."""
        return SwitchAgentMessage(message.agent_type) if isinstance(message, SwitchAgentMessage) else message

    def session_info(self, session_id: str) -> bytes:
        return _object({"type": "session_info", "session_id": session_id, "is_final": False})

    def encoder(self) -> Encode:
        return GatewayEncoder().encode

    def error_reply(self, error: AgentRuntimeError) -> web.Response | None:
        body = _error(str(error)) + END
        return Reply(body=body, headers={"Content-Type": "text/event-stream"})


class GatewayEncoder:
    """Encodes the events of one stream.

    An answer is held back until the next event: it is final only if it is the last of its turn.
    """

    def __init__(self) -> None:
        self._answer: str | None = None

    def encode(self, events: Sequence[TurnEvent]) -> Iterator[bytes | Raw]:
        """The events in the format of the stream."""
        for event in events:
            match event.name:
                case "message":
                    yield from self._message(event.data)
                case "done":
                    yield from self._release(final=True)
                    yield END
                case "failed" | "error":
                    yield from self._release(final=False)
                    yield _error(msgspec.json.decode(event.data)["error"])
                    yield END

    def _message(self, data: Raw) -> Iterator[bytes]:
        message = msgspec.json.decode(data, type=_Message)
        if message.token is not None:
            return  # A piece of an answer, which follows whole.
        yield from self._release(final=False)
        if message.type == "assistant_message":
            self._answer = message.content or ""
        else:
            yield _event(data)

    def _release(self, *, final: bool) -> Iterator[bytes]:
        answer, self._answer = self._answer, None
        if answer:
            kind = "assistant_message"
            yield _object({"type": kind, "content": answer, "token": answer, "is_final": final})
        elif answer is not None and final:
            yield _error(EMPTY_ANSWER)


class _Message(Struct, frozen=True):
    """A `message` event, as far as this dialect reads it."""

    type: str
    content: str | None = None
    token: str | None = None


def _error(text: str) -> bytes:
    """An error as an object. Some clients read `content`, others `error`."""
    return _object({"type": "error", "error": text, "content": text, "is_final": True})


def _object(value: dict[str, Any]) -> bytes:
    return _event(msgspec.json.encode(value))


def _event(data: bytes | Raw) -> bytes:
    return b"event: message\ndata: %b\n\n" % bytes(data)
