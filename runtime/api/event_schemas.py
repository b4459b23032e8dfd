"""The events of streams as the OpenAPI document describes them. They are encoded by hand."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from runtime.models import ChangedEvent, Message


class SessionInfo(Struct, frozen=True):
    """The id of a session that was created for a turn."""

    session_id: str


class TurnBegun(Struct, frozen=True):
    """The first event of a turn."""

    turn_id: str


class TextPiece(Struct, frozen=True):
    """A piece of the answer of an agent."""

    type: Literal["assistant_message"]
    token: str
    is_final: Literal[False]


class Said(Struct, frozen=True):
    """The whole answer of an agent."""

    type: Literal["assistant_message"]
    content: str | None
    is_final: Literal[True]


class ToolCallMade(Struct, frozen=True):
    """A tool call for the client to run, or for a person to decide about first."""

    type: Literal["tool_call"]
    call_id: str
    tool_name: str
    arguments: Any
    requires_approval: bool
    is_final: Literal[True]


class Handed(Struct, frozen=True):
    """From whom to whom a conversation went, and why."""

    from_agent: str
    to_agent: str
    reason: str | None


class AgentSwitched(Struct, frozen=True):
    """The turn goes on with another agent."""

    type: Literal["agent_switched"]
    content: str
    metadata: Handed
    is_final: Literal[False]


class TurnEnded(Struct, frozen=True):
    """The last event of a turn that came to its end, or was stopped."""

    status: Literal["completed", "stopped"]


class TurnBroken(Struct, frozen=True):
    """The last event of a turn that failed, or was interrupted."""

    type: Literal["error"]
    error: str
    code: str
    is_final: Literal[True]


class EventsMissing(Struct, frozen=True):
    """Replaces events that are no longer kept."""

    type: Literal["gap"]
    content: str
    missing_to: int


def _json_of(*kinds: type) -> Meta:
    """The data of an event: one line of JSON."""
    choices = [{"$ref": f"#/components/schemas/{kind.__name__}"} for kind in kinds]
    schema = choices[0] if len(choices) == 1 else {"anyOf": choices}
    return Meta(extra_json_schema={"contentMediaType": "application/json", "contentSchema": schema})


class MessageSent(Struct, frozen=True, tag_field="event", tag="message"):
    """A message of a session; the id is its number."""

    id: str
    data: Annotated[str, _json_of(Message)]


class ChangeSent(Struct, frozen=True, kw_only=True, tag_field="event", tag="changed"):
    """Anything else that changed in a session. Only `reset` has an id, 0."""

    id: Literal["0"] | UnsetType = UNSET
    data: Annotated[str, _json_of(ChangedEvent)]


class SessionInfoSent(Struct, frozen=True, tag_field="event", tag="session_info"):
    """The session that was created for a turn. It comes before the events of the turn, without an id."""

    data: Annotated[str, _json_of(SessionInfo)]


class TurnSent(Struct, frozen=True, tag_field="event", tag="turn"):
    id: str
    data: Annotated[str, _json_of(TurnBegun)]


class SpeechSent(Struct, frozen=True, tag_field="event", tag="message"):
    id: str
    data: Annotated[str, _json_of(TextPiece, Said, ToolCallMade, AgentSwitched)]


class EndSent(Struct, frozen=True, tag_field="event", tag="done"):
    id: str
    data: Annotated[str, _json_of(TurnEnded)]


class ErrorSent(Struct, frozen=True, tag_field="event", tag="error"):
    id: str
    data: Annotated[str, _json_of(TurnBroken)]


class GapSent(Struct, frozen=True, tag_field="event", tag="gap"):
    id: str
    data: Annotated[str, _json_of(EventsMissing)]


SessionStream = MessageSent | ChangeSent
TurnStream = TurnSent | SpeechSent | EndSent | ErrorSent | GapSent
NewTurnStream = SessionInfoSent | TurnSent | SpeechSent | EndSent | ErrorSent | GapSent

# Named by the text of a stream, and so found by no route.
EVENT_DATA = (
    *(Message, ChangedEvent),
    *(
        SessionInfo,
        TurnBegun,
        TextPiece,
        Said,
        ToolCallMade,
        AgentSwitched,
        TurnEnded,
        TurnBroken,
        EventsMissing,
    ),
)

# The form of `Last-Event-ID`; an empty one is ignored.
EVENT_IDS: dict[Any, str] = {
    SessionStream: r"^[0-9]{0,18}$",
    TurnStream: r"^([0-9]{1,9}(-[0-9]{1,9})?)?$",
}
