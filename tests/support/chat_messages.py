"""What clients and models are shown of calls, to compare with."""

from __future__ import annotations

from runtime.agents.configuration import load_registry
from tests.support.api_server import Json
from tests.support.model_server import Asked

BUILTIN = load_registry("")


def handed(call_id: str, name: str, arguments: Json, *, asks: bool = False) -> Json:
    """The event that hands a call to the client."""
    data = {"type": "tool_call", "call_id": call_id, "tool_name": name, "arguments": arguments}
    return "message", {**data, "requires_approval": asks, "is_final": True}


def sent(asked: Asked) -> list[Json]:
    """The messages that a model was sent, behind the instructions."""
    return list(asked.body["messages"][1:])


def shown(call_id: str, name: str, arguments: str) -> Json:
    """A call as a model is shown it."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def calling(*tool_calls: Json, content: str | None = None) -> Json:
    return {"role": "assistant", "content": content, "tool_calls": list(tool_calls)}


def answered(call_id: str, content: str) -> Json:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def check_asked(asked: Asked, agent: str) -> None:
    """The model was asked as this agent: with its instructions and its tools."""
    body = asked.body
    assert body["messages"][0] == {"role": "system", "content": BUILTIN.agents[agent].instructions}
    assert body["tools"] == BUILTIN.definitions(agent)
    assert (body["model"], body["stream"]) == ("gpt-4o-mini", True)
