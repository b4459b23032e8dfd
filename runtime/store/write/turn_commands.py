"""Commands about turns."""

from __future__ import annotations

from msgspec import Struct

from runtime.models import Decision, TurnStatus
from runtime.store.messages import NewMessage
from runtime.store.records import JsonText
from runtime.store.turn_events import NewEvent
from runtime.store.write.commands import Command, CreateApproval


class ToolResult(Struct, frozen=True):
    """The result of a tool that the client ran. `tool_name` is None for the name in the call."""

    call_id: str
    content: JsonText
    tool_name: JsonText | None = None
    failed: bool = False


class CallVerdict(Struct, frozen=True):
    """A person's decision about a tool call, as part of the start of a turn."""

    call_id: str
    decision: Decision
    modified_arguments: JsonText | None = None
    feedback: JsonText | None = None


class StartTurn(Command, frozen=True):
    """Start a turn; create the session if it is missing.

    The turn starts with messages of the user, a handover to `agent`, the result of a tool, or a verdict on
    a waiting call.
    """

    messages: tuple[NewMessage, ...] = ()
    agent: str | None = None
    result: ToolResult | None = None
    verdict: CallVerdict | None = None


class Ending(Struct, frozen=True):
    """How a turn ends. If it failed, `error` is for people and `code` for programs."""

    status: TurnStatus
    error: JsonText | None = None
    code: str = ""


class AdvanceTurn(Command, frozen=True):
    """Store the progress of a running turn, by the instance that runs it. Serves as the turn's heartbeat.

    `after` is the beat at which the turn was last stored. A repeat of the command finds the next beat and
    changes nothing. `texts` are pieces of the model's text, escaped as in a JSON string, without the quotes;
    everything else comes after them.
    """

    turn_id: str
    instance: str
    after: int
    texts: tuple[JsonText, ...] = ()
    messages: tuple[NewMessage, ...] = ()
    approvals: tuple[CreateApproval, ...] = ()
    agent: str | None = None
    reason: JsonText | None = None
    events: tuple[NewEvent, ...] = ()
    input_tokens: int = 0
    output_tokens: int = 0
    ending: Ending | None = None


class StopTurn(Command, frozen=True):
    """Request that the instance which runs a turn stops it. An ended turn is left as it is."""

    turn_id: str


class InterruptTurn(Command, frozen=True):
    """End a turn whose process has died, unless its beat has changed from `beat` or it has ended."""

    turn_id: str
    beat: int
