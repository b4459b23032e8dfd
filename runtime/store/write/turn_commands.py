"""What can be asked of the writer about turns, and what comes back."""

from __future__ import annotations

from msgspec import Struct

from runtime.models import Decision, TurnStatus
from runtime.store.messages import NewMessage
from runtime.store.records import JsonText
from runtime.store.turn_events import NewEvent
from runtime.store.write.commands import Command, CreateApproval


class ToolResult(Struct, frozen=True):
    """What a tool that the client ran came to; `tool_name` empty: that of the call."""

    call_id: str
    content: JsonText
    tool_name: JsonText | None = None
    failed: bool = False


class Verdict(Struct, frozen=True):
    """What a person decided about a tool call."""

    call_id: str
    decision: Decision
    modified_arguments: JsonText | None = None
    feedback: JsonText | None = None


class StartTurn(Command, frozen=True):
    """Begin a turn, in a session that is made where it is missing: with messages of the user, after a
    handover to `agent`, with the result of a tool, or with a verdict on a call that waits."""

    messages: tuple[NewMessage, ...] = ()
    agent: str | None = None
    result: ToolResult | None = None
    verdict: Verdict | None = None


class Ending(Struct, frozen=True):
    """How a turn ends; where it went wrong, `error` is for people and `code` for programs."""

    status: TurnStatus
    error: JsonText | None = None
    code: str = ""


class AdvanceTurn(Command, frozen=True):
    """What a running turn came to since it was last stored, by the instance that runs it: its sign of life.

    `after` is the beat that the turn was stored at. A repeat, after a reply that was lost, finds it at the
    next one and changes nothing. `texts` are pieces of what the model said, as they stand between the
    quotes of a JSON string; all else follows them.
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
    """Ask the instance that runs a turn to stop it; a turn that has ended stays as it is."""

    turn_id: str


class InterruptTurn(Command, frozen=True):
    """End a turn whose process has died, unless it has given a sign of life after `beat`, or has ended."""

    turn_id: str
    beat: int
