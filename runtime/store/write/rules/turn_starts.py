"""The rule that starts a turn; see `__init__.py` for what all rules have in common."""

from __future__ import annotations

from msgspec import structs

from runtime.errors import (
    ApprovalDecided,
    ApprovalExpired,
    ApprovalPending,
    CallNotOpen,
    SessionNotFound,
    TurnRunning,
)
from runtime.store import turn_events as events
from runtime.store.changes import Change
from runtime.store.messages import NewMessage
from runtime.store.records import ApprovalRow, JsonText, TurnRow, decode_optional, encode_text
from runtime.store.write.batch import Batch, check_version
from runtime.store.write.commands import CreateSession, Request
from runtime.store.write.outcomes import TurnWritten
from runtime.store.write.planned_session import PlannedSession
from runtime.store.write.planned_turn import PlannedTurn
from runtime.store.write.rules.approvals import decide, get_approval, is_expired
from runtime.store.write.rules.open_calls import OpenCalls, open_calls
from runtime.store.write.rules.rule import Rules
from runtime.store.write.rules.sessions import new_details
from runtime.store.write.rules.turns import end_turn, hand_over, turn_written
from runtime.store.write.turn_commands import CallVerdict, Ending, StartTurn, ToolResult


def _start_turn(batch: Batch, request: Request, command: StartTurn) -> TurnWritten:
    if batch.find(request.key) is None:
        if command.result is not None or command.verdict is not None:
            raise SessionNotFound(request.key.session_id)
        check_version(request, 0)
        created = batch.add(request, new_details(request, CreateSession(request.key)))
        return _start(batch, request, command, created, {}, None)
    session = batch.get(request)
    last = batch.turn(session)
    if last is not None and last.row.runs:
        raise TurnRunning(request.key.session_id, last.row.turn_id)
    calls = open_calls(batch, session)
    decided = None
    if command.result is not None:
        decided = _decided_by(batch, session, command.result, calls, request)
    if command.verdict is not None:
        decided = _decided(batch, session, command.verdict, calls, request)
    return _start(batch, request, command, session, calls, decided)


def _decided_by(
    batch: Batch, session: PlannedSession, result: ToolResult, calls: OpenCalls, request: Request
) -> ApprovalRow | None:
    """The approval that a result decides; None if its call does not wait for a decision.

    Raises CallNotOpen, ApprovalExpired, and ApprovalPending if a result may not decide.
    """
    approval = batch.approval(session, result.call_id)
    if result.call_id not in calls or (approval is not None and approval.status == "rejected"):
        raise CallNotOpen(session.key.session_id, result.call_id)
    if approval is None or approval.status != "pending":
        return None
    if is_expired(approval, request.at):
        raise ApprovalExpired(result.call_id)
    if not request.result_decides:
        raise ApprovalPending(result.call_id)
    if result.failed:
        return decide(approval, CallVerdict(result.call_id, "reject", None, result.content), request.at)
    return decide(approval, CallVerdict(result.call_id, "approve"), request.at)


def _decided(
    batch: Batch, session: PlannedSession, verdict: CallVerdict, calls: OpenCalls, request: Request
) -> ApprovalRow:
    """The approval after the verdict. Raises ApprovalDecided if it is a repeat that has no effect.

    A rejection recorded outside a turn is delivered to the model once. An approved call was returned to the
    client that approved it, and is not returned to a second one.
    """
    approval = get_approval(batch, session, verdict.call_id)
    decided = decide(approval, verdict, request.at)
    if decided == approval and (approval.status != "rejected" or verdict.call_id not in calls):
        raise ApprovalDecided(verdict.call_id, approval.status)
    return decided


def _start(
    batch: Batch,
    request: Request,
    command: StartTurn,
    session: PlannedSession,
    calls: OpenCalls,
    decided: ApprovalRow | None,
) -> TurnWritten:
    turn = _new_turn(batch, session, request)
    changes: set[Change] = {"turns"}
    if command.agent is not None and hand_over(session, turn, request, command.agent, None):
        changes.add("agent")
    if decided is not None:
        session.approvals[decided.call_id] = decided
        changes.add("approvals")
    was_open = bool(calls)
    session.append(_answers(batch, request, session, calls, command.result), request.at)
    if command.messages and _expire_waiting(session, calls, request):
        changes.add("approvals")
    session.append(command.messages, request.at)
    if command.verdict is not None and decided is not None and decided.status != "rejected":
        arguments = decided.modified_arguments or decided.arguments
        turn.append_event(
            events.tool_call(decided.call_id, decided.tool_name, arguments, requires_approval=False)
        )
    if not (command.messages or (was_open and not calls and (command.result or decided))):
        end_turn(turn, request, Ending("completed"))
    session.raise_version(request.at, *sorted(changes))
    return structs.replace(turn_written(session, turn), beginning=tuple(turn.pieces))


def _expire_waiting(session: PlannedSession, calls: OpenCalls, request: Request) -> bool:
    """Let the pending approvals of these calls expire: the user wrote a message instead of deciding."""
    waiting = [
        approval
        for call_id in calls
        if (approval := session.approvals.get(call_id)) is not None
        and approval.status == "pending"
        and not is_expired(approval, request.at)
    ]
    for approval in waiting:
        session.approvals[approval.call_id] = structs.replace(approval, expires_at=request.at)
    return bool(waiting)


def _new_turn(batch: Batch, session: PlannedSession, request: Request) -> PlannedTurn:
    lease, last = request.lease, batch.turn(session)
    assert lease is not None, "a turn is started for an instance"
    row = TurnRow(
        n=1 if last is None else last.row.n + 1,
        turn_id=lease.turn_id,
        status="running",
        agent=session.known_details().current_agent,
        started_at=request.at,
        ended_at=None,
        error=None,
        input_tokens=0,
        output_tokens=0,
        instance=lease.instance,
        beat=0,
        stop_requested=False,
        last_event=0,
        text_length=0,
    )
    turn = PlannedTurn(session.id, row, stored=None)
    session.turns.append(turn)
    turn.append_event(events.turn_begins(lease.turn_id))
    return turn


def _answers(
    batch: Batch, request: Request, session: PlannedSession, calls: OpenCalls, result: ToolResult | None
) -> list[NewMessage]:
    """Messages that answer open calls: the result, and a refusal of each call that is not to be run.

    Removes the answered calls from `calls`. A refusal may have been recorded while no turn was running.
    """
    answers = []
    for call_id, name in list(calls.items()):
        approval = batch.approval(session, call_id)
        if result is not None and result.call_id == call_id:
            metadata = {"failed": True} if result.failed else {}
            answers.append(_tool_message(call_id, result.tool_name or name, result.content, metadata))
            del calls[call_id]
        elif approval is not None and (refused := _refusal(approval, request)):
            text, metadata = refused
            answers.append(_tool_message(call_id, name, encode_text(text), metadata))
            del calls[call_id]
    return answers


def _refusal(approval: ApprovalRow, request: Request) -> tuple[str, dict[str, bool]] | None:
    """The text for a call that is not to be run, because it was rejected or not approved in time."""
    if approval.status == "rejected":
        feedback = decode_optional(approval.feedback)
        text = "The user rejected this call." + (f" Feedback: {feedback}" if feedback else "")
        return text, {"rejected": True}
    if approval.status == "pending" and is_expired(approval, request.at):
        return "Nobody approved this call in time; it was not run.", {"expired": True}
    return None


def _tool_message(call_id: str, name: JsonText, content: JsonText, metadata: dict[str, bool]) -> NewMessage:
    return NewMessage(
        "tool",
        content,
        name=name,
        tool_call_id=encode_text(call_id),
        metadata=encode_text(metadata) if metadata else None,
    )


RULES: Rules = {StartTurn: _start_turn}
