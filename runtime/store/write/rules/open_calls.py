"""Finds the tool calls at the end of a history that have no result yet."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from runtime.store.records import JsonText
from runtime.store.write.batch import Batch
from runtime.store.write.planned_session import PlannedSession

# The most calls of a message, and characters of them, that are decoded: more would take seconds.
MAX_CALLS, MAX_LENGTH = 1000, 2_000_000

# The id of each call with the name of its tool.
OpenCalls = dict[str, JsonText]


class _CalledFunction(Struct, frozen=True):
    name: str = ""


class _ToolCall(Struct, frozen=True):
    id: str
    function: _CalledFunction = _CalledFunction()


def open_calls(batch: Batch, session: PlannedSession) -> OpenCalls:
    """The unanswered calls of the last assistant message; none if a user message follows it.

    Calls that do not have the form of chat completions are ignored.
    """
    stored = [row for row in batch.stored.open_end(session.id) if row.seq <= session.stored_last]
    answered: set[str] = set()
    for message in (*reversed(session.added), *reversed(stored)):
        if message.role == "tool":
            answered.add(message.tool_call_id or "")
        elif message.role == "assistant":
            calls = calls_in(message.tool_calls)
            return {id: name for id, name in calls.items() if _text(id) not in answered}
        elif message.role == "user":
            break
    return {}


def calls_in(tool_calls: JsonText | None) -> OpenCalls:
    """The calls of a message, answered or not; none if there are more than a model makes."""
    if tool_calls is None or len(tool_calls) > MAX_LENGTH:
        return {}
    try:
        calls = msgspec.json.decode(tool_calls, type=list[_ToolCall])
    except msgspec.ValidationError:
        return {}
    if len(calls) > MAX_CALLS:
        return {}
    return {call.id: _text(call.function.name) for call in calls}


def _text(value: str) -> JsonText:
    return msgspec.json.encode(value).decode()
