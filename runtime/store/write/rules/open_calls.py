"""Which calls of tools a history ends in that nobody has answered yet."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec import Struct

from runtime.store.records import JsonText, MessageRow
from runtime.store.write.batch import Batch, TailMessage
from runtime.store.write.planned_session import PlannedSession

# The most calls, and characters of them, that are looked at: to read hundreds of thousands takes seconds.
MAX_CALLS, MAX_LENGTH = 1000, 2_000_000

# The id of each call with the name of its tool.
OpenCalls = dict[str, JsonText]


class _Function(Struct, frozen=True):
    name: str = ""


class _Call(Struct, frozen=True):
    id: str
    function: _Function = _Function()


def open_calls(batch: Batch, session: PlannedSession) -> OpenCalls:
    """The calls of the last message of an assistant, where no user spoke after it and no result answers
    them. What others stored there in a form of their own calls nothing."""
    answered: set[str] = set()
    for message in _from_the_end(batch, session):
        if message.role == "tool":
            answered.add(message.tool_call_id or "")
        elif message.role == "assistant":
            calls = calls_in(message.tool_calls)
            return {id: name for id, name in calls.items() if _text(id) not in answered}
        elif message.role == "user":
            break
    return {}


def _from_the_end(batch: Batch, session: PlannedSession) -> Iterator[TailMessage | MessageRow]:
    yield from reversed(session.added)
    stored = batch.known.open_end(session.id)
    yield from (message for message in reversed(stored) if message.seq <= session.stored_last)


def calls_in(tool_calls: JsonText | None) -> OpenCalls:
    """The calls that a message makes, answered or not; none where they are more than a model makes."""
    if tool_calls is None or len(tool_calls) > MAX_LENGTH:
        return {}
    try:
        calls = msgspec.json.decode(tool_calls, type=list[_Call])
    except msgspec.ValidationError:
        return {}
    if len(calls) > MAX_CALLS:
        return {}
    return {call.id: _text(call.function.name) for call in calls}


def _text(value: str) -> JsonText:
    return msgspec.json.encode(value).decode()
