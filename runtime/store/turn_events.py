"""What the events of a turn say, as the contract has it."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from runtime.store.commands import JsonText
from runtime.store.turn_commands import NewEvent

# The events after which a turn has no more.
LAST_EVENTS = frozenset({"done", "error"})


def _event(kind: str, **data: Any) -> NewEvent:
    return NewEvent(kind, msgspec.json.encode(data).decode())


def turn_begins(turn_id: str) -> NewEvent:
    return _event("turn", turn_id=turn_id)


def token(text: JsonText) -> bytes:
    """The data of a piece of text, given as it stands between the quotes of a JSON string."""
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
    """The data of the event that stands for those that are no longer kept, up to a number."""
    text = "events of this turn are no longer kept; the messages of the session hold what was said"
    return Raw(msgspec.json.encode({"type": "gap", "content": text, "missing_to": missing_to}))
