"""What begins a turn, as a client sends it."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct

from runtime.models import Decision, Key, Text

Content = Annotated[str, Meta(min_length=1)] | Annotated[list[dict[str, Any]], Meta(min_length=1)]


class UserMessage(Struct, frozen=True, forbid_unknown_fields=True, tag="user_message"):
    """Something that the user says."""

    content: Content


class ToolResultMessage(Struct, frozen=True, forbid_unknown_fields=True, tag="tool_result"):
    """What a tool that the client ran came to: its `result`, or the `error` that it failed with."""

    call_id: Key
    tool_name: Text | None = None
    result: Any = UNSET
    error: Any = UNSET


class SwitchAgentMessage(Struct, frozen=True, forbid_unknown_fields=True, tag="switch_agent"):
    """The user hands the conversation over, and may say something to the next agent at once."""

    agent_type: Key
    content: Content | None = None


class DecisionMessage(Struct, frozen=True, forbid_unknown_fields=True, tag="hitl_decision"):
    """A person decides about a tool call that waits. `edit` gives the arguments to go on with."""

    call_id: Key
    decision: Decision
    modified_arguments: Any = None
    feedback: Text | None = None


TurnMessage = UserMessage | ToolResultMessage | SwitchAgentMessage | DecisionMessage
