"""Events of a turn, in the form of the HTTP contract."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from runtime.store.records import JsonText

# The kind of an event that is a piece of the model's text.
TEXT = "text"
# The events that end a turn.
LAST_EVENTS = frozenset({"done", "error"})


class NewEvent(Struct, frozen=True):
    """An event of a turn; `data` is its JSON."""

    kind: str
    data: JsonText


def _event(kind: str, **data: Any) -> NewEvent:
    return NewEvent(kind, msgspec.json.encode(data).decode())


def turn_begins(turn_id: str) -> NewEvent:
    return _event("turn", turn_id=turn_id)


def token(text: JsonText) -> bytes:
    """The data of a piece of text, given in the escaped form of a JSON string without its quotes."""
    return f'{{"type":"assistant_message","token":"{text}","is_final":false}}'.encode()


def assistant_message(content: JsonText) -> NewEvent:
    return _event("message", type="assistant_message", content=Raw(content.encode()), is_final=True)


def tool_call(call_id: str, tool_name: JsonText, arguments: JsonText, *, requires_approval: bool) -> NewEvent:
    return _event(
        "message",
        type="tool_call",
        call_id=call_id,
        tool_name=Raw(tool_name.encode()),
        arguments=Raw(arguments.encode()),
        requires_approval=requires_approval,
        is_final=True,
    )


def agent_switched(from_agent: str, to_agent: str, reason: str | None) -> NewEvent:
    content = f"{from_agent} hands over to {to_agent}" + (f": {reason}" if reason else "")
    metadata = {"from_agent": from_agent, "to_agent": to_agent, "reason": reason}
    return _event("message", type="agent_switched", content=content, metadata=metadata, is_final=False)


def done(status: str) -> NewEvent:
    return _event("done", status=status)


def error(text: str, code: str) -> NewEvent:
    return _event("error", type="error", error=text, code=code, is_final=True)


def gap(missing_to: int) -> Raw:
    """The data of the event that replaces deleted events up to number `missing_to`."""
    text = "events of this turn are no longer kept; the messages of the session hold what was said"
    return Raw(msgspec.json.encode({"type": "gap", "content": text, "missing_to": missing_to}))
