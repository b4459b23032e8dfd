"""The messages of a client that start a turn."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from msgspec import UNSET, Struct, UnsetType

from runtime.errors import InvalidInput
from runtime.models import Decision, Key, Text
from runtime.store.messages import MessageBatch, new_message
from runtime.store.turn_store import ToolOutput
from runtime.store.validation import JsonValue, json_type


class Content(MessageBatch):
    """The content of a user's message, as the one message that it becomes."""

    __slots__ = ()
    schema: ClassVar[dict[str, Any]] = {
        "anyOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "items": {"type": "object"}, "minItems": 1},
        ]
    }

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Parse a text or a list of parts. Raises TypeError or ValueError for others, and InvalidInput."""
        if not isinstance(value, str | list):
            raise TypeError(f"Expected `str | array`, got {json_type(value)}")
        if not value:
            kind = "str" if isinstance(value, str) else "array"
            raise ValueError(f"Expected `{kind}` of length >= 1")
        if isinstance(value, list) and (wrong := {*map(type, value)} - {dict}):
            place = next(index for index, part in enumerate(value) if type(part) in wrong)
            found = json_type(value[place])
            raise InvalidInput(f"$.message.content[{place}]", f"Expected `object`, got {found}")
        return cls([new_message({"role": "user", "content": value}, "$.message")])


class OptionalContent(Content):
    """The same, or an empty text: no message."""

    __slots__ = ()
    schema: ClassVar[dict[str, Any]] = {
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]
    }

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Parse a text or a list of parts. Raises TypeError for others, and InvalidInput."""
        return cls([]) if value in ("", []) else super().parse(value)


class UserMessage(Struct, frozen=True, tag="user_message"):
    """A message of the user."""

    content: Content


class ToolResultMessage(Struct, frozen=True, tag="tool_result"):
    """What a tool that the client ran came to: its `result`, or the `error` that it failed with."""

    call_id: Key
    tool_name: Text | None = None
    result: ToolOutput | UnsetType | None = UNSET
    error: ToolOutput | UnsetType | None = UNSET


class SwitchAgentMessage(Struct, frozen=True, tag="switch_agent"):
    """The user hands the conversation over, perhaps with a message to the next agent."""

    agent_type: Key
    content: OptionalContent | None = None


class DecisionMessage(Struct, frozen=True, tag="hitl_decision"):
    """A person decides about a tool call that waits. `edit` gives the arguments to go on with."""

    call_id: Key
    decision: Decision
    modified_arguments: JsonValue | None = None
    feedback: Text | None = None


TurnMessage = UserMessage | ToolResultMessage | SwitchAgentMessage | DecisionMessage
