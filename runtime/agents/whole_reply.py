"""A whole reply of a chat-completions server, as the one chunk that a stream of it would have."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from msgspec import Struct

from runtime.agents.stream_assembler import CallFragment, Choice, Chunk, Delta
from runtime.errors import ModelGarbled


class _Choice(Struct):
    message: Delta | None = None
    finish_reason: str | None = None


class _Reply(Struct):
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None
    object: Any = None
    message: Any = None


def decode_reply(body: bytes) -> Chunk:
    """The answer in a reply, as a chunk. Raises ModelGarbled for what is not a reply."""
    try:
        # The standard library also takes half of a surrogate pair, escaped.
        reply = msgspec.convert(json.loads(body), _Reply)
    except (ValueError, RecursionError) as error:
        raise ModelGarbled(f"the language model sent what is not a reply: {error}") from error
    choices = [_as_chunk(choice) for choice in (reply.choices or ())[:1]]
    return Chunk(choices, reply.usage, reply.error, reply.object, reply.message)


def _as_chunk(choice: _Choice) -> Choice:
    delta = choice.message or Delta()
    # Calls of a whole reply have no index.
    calls = [CallFragment(place, call.id, call.function) for place, call in enumerate(delta.tool_calls or ())]
    return Choice(0, Delta(delta.content, delta.refusal, calls), choice.finish_reason or "stop")
