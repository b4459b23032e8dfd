"""What has to become of turns, said as simply as possible. Knows nothing of pieces, rows or batches."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from msgspec import Raw, structs

from runtime.models import AgentSwitch, Approval
from runtime.store.messages import NewMessage
from runtime.store.write.commands import Request
from runtime.store.write.outcomes import TurnWritten
from runtime.store.write.turn_commands import AdvanceTurn, CallVerdict, Ending, StartTurn
from tests.conversation import Conversation, Refusal, StoredTurn, add, value

PAST_TENSE = {"approve": "approved", "edit": "edited", "reject": "rejected"}
# Text goes on in the same event until it is so long.
LONG = 2000
# The instance that looks after turns. All others are dead.
HERE = "here"
DELETED = "the session was deleted while the turn ran; what was said is kept"
DIED = "the turn was cut off: nobody runs it any more; what was said is kept"


def turn_written(session: Conversation) -> TurnWritten:
    turn = session.turns[-1]
    return TurnWritten(
        session_id=session.key.session_id,
        version=session.version,
        turn=turn.turn(),
        session_db_id=0,
        n=len(session.turns),
        stop_requested=turn.stop_requested,
        beat=turn.beat,
    )


def last_turn(session: Conversation, turn_id: str) -> StoredTurn:
    if not session.turns or session.turns[-1].lease.turn_id != turn_id:
        raise Refusal("turn_not_found")
    return session.turns[-1]


# How a turn begins


def begin(session: Conversation, command: StartTurn, request: Request) -> set[str]:
    """Begin a turn; what changed."""
    if session.turns and session.turns[-1].status == "running":
        raise Refusal("turn_running")
    calls = open_calls(session)
    if command.result is not None:
        check_result(session, command.result.call_id, calls, request.at)
    decided = None
    if command.verdict is not None:
        decided = decide(session, command.verdict, calls, request.at)
    assert request.lease is not None
    turn = StoredTurn(request.lease, session.agent, request.at)
    session.turns.append(turn)
    tell(turn, "turn", {"turn_id": request.lease.turn_id})
    what = {"turns"}
    if command.agent is not None and hand_over(session, turn, command.agent, None, request.at):
        what.add("agent")
    if decided is not None:
        session.approvals[decided.call_id] = decided
        what.add("approvals")
    left = answer(session, command, calls, request.at)
    if command.messages and give_up(session, left, request.at):
        what.add("approvals")
    add(session, command.messages, request.at)
    if decided is not None and decided.status != "rejected":
        tell(turn, "message", the_call_again(decided))
    all_answered = bool(calls) and not left and bool(command.result or decided)
    if not command.messages and not all_answered:
        end(turn, Ending("completed"), request.at)
    return what


def open_calls(session: Conversation) -> dict[str, str]:
    """The calls that nobody has answered, each with its tool."""
    answered = set()
    for stored in reversed(session.messages):
        message = stored.message
        if message.role == "tool":
            answered.add(value(message.tool_call_id))
        elif message.role in ("user", "assistant"):
            calls = (value(message.tool_calls) or []) if message.role == "assistant" else []
            return {each["id"]: each["function"]["name"] for each in calls if each["id"] not in answered}
    return {}


def waits(approval: Approval, at: datetime) -> bool:
    return approval.at(at).status == "pending"


def check_result(session: Conversation, call_id: str, calls: dict[str, str], at: datetime) -> None:
    approval = session.approvals.get(call_id)
    if call_id not in calls or (approval is not None and approval.status == "rejected"):
        raise Refusal("call_not_open")
    if approval is not None and approval.status == "pending":
        raise Refusal("approval_pending" if waits(approval, at) else "approval_expired")


def decide(session: Conversation, verdict: CallVerdict, calls: dict[str, str], at: datetime) -> Approval:
    approval = session.approvals.get(verdict.call_id)
    if approval is None:
        raise Refusal("approval_not_found")
    status, modified = PAST_TENSE[verdict.decision], value(verdict.modified_arguments)
    if approval.status == "pending":
        if not waits(approval, at):
            raise Refusal("approval_expired")
        decided = {"status": status, "decided_at": at, "feedback": value(verdict.feedback)}
        encoded = Raw(verdict.modified_arguments or "null")
        return structs.replace(approval, encoded_modified_arguments=encoded, **decided)
    same = (status, modified) == (approval.status, approval.modified_arguments)
    if not same or status != "rejected" or verdict.call_id not in calls:
        raise Refusal("approval_decided")
    return approval


def answer(session: Conversation, command: StartTurn, calls: dict[str, str], at: datetime) -> set[str]:
    """Answer what can be answered; the calls that are left."""
    left = set(calls)
    for call_id, name in calls.items():
        approval = session.approvals.get(call_id)
        if command.result is not None and command.result.call_id == call_id:
            tool_name = value(command.result.tool_name) or name
            metadata = '{"failed":true}' if command.result.failed else None
            add(session, (result(call_id, tool_name, command.result.content, metadata),), at)
            left.remove(call_id)
        elif approval is not None and approval.at(at).status == "expired":
            text = "Nobody approved this call in time; it was not run."
            add(session, (result(call_id, name, written(text), '{"expired":true}'),), at)
            left.remove(call_id)
        elif approval is not None and approval.status == "rejected":
            text = "The user rejected this call."
            text += f" Feedback: {approval.feedback}" if approval.feedback else ""
            add(session, (result(call_id, name, written(text), '{"rejected":true}'),), at)
            left.remove(call_id)
    return left


def result(call_id: str, name: str, content: str, metadata: str | None) -> NewMessage:
    return NewMessage("tool", content, name=written(name), tool_call_id=written(call_id), metadata=metadata)


def give_up(session: Conversation, calls: set[str], at: datetime) -> bool:
    """The user speaks: nothing waits for a decision any longer."""
    waiting = [
        session.approvals[id] for id in calls if id in session.approvals and waits(session.approvals[id], at)
    ]
    for approval in waiting:
        session.approvals[approval.call_id] = structs.replace(approval, expires_at=at)
    return bool(waiting)


def the_call_again(approval: Approval) -> dict[str, Any]:
    edited = approval.modified_arguments is not None
    return {
        "type": "tool_call",
        "call_id": approval.call_id,
        "tool_name": approval.tool_name,
        "arguments": approval.modified_arguments if edited else approval.arguments,
        "requires_approval": False,
        "is_final": True,
    }


def hand_over(session: Conversation, turn: StoredTurn, agent: str, reason: Any, at: datetime) -> bool:
    before = session.agent
    if agent == before:
        return False
    session.agent = turn.agent = agent
    session.context_updated_at = at
    session.switches.append(AgentSwitch(len(session.switches) + 1, before, agent, at, reason, Raw("{}")))
    said = f"{before} hands over to {agent}" + (f": {reason}" if reason else "")
    switched = {"from_agent": before, "to_agent": agent, "reason": reason}
    data = {"type": "agent_switched", "content": said, "metadata": switched, "is_final": False}
    tell(turn, "message", data)
    return True


# How it goes on, and ends


def advance(session: Conversation, command: AdvanceTurn, request: Request) -> set[str] | None:
    """Take a step; what changed, None if it was taken before."""
    if not session.turns:
        raise Refusal("turn_lost")
    turn = session.turns[-1]
    if (turn.lease.turn_id, turn.lease.instance) != (command.turn_id, command.instance):
        raise Refusal("turn_lost")
    if turn.beat == command.after + 1 and turn.status == (command.ending or Ending("running")).status:
        return None
    if turn.beat != command.after or turn.status != "running":
        raise Refusal("turn_lost")
    if any(approval.call_id in session.approvals for approval in command.approvals):
        raise Refusal("approval_exists")
    return step(session, turn, command, request.at)


def step(session: Conversation, turn: StoredTurn, command: AdvanceTurn, at: datetime) -> set[str]:
    what = set()
    turn.beat += 1
    for text in command.texts:
        say(turn, value(f'"{text}"'))
    add(session, command.messages, at)
    asked_at = max(at, turn.started_at)
    for asked in command.approvals:
        approval = Approval(
            call_id=asked.call_id,
            session_id=session.key.session_id,
            tool_name=value(asked.tool_name),
            encoded_arguments=Raw(asked.arguments),
            reason=value(asked.reason),
            status="pending",
            created_at=asked_at,
            expires_at=None if asked.expires_in is None else asked_at + timedelta(seconds=asked.expires_in),
            decided_at=None,
            encoded_modified_arguments=Raw("null"),
            feedback=None,
        )
        session.approvals[asked.call_id] = approval
        what.add("approvals")
    for event in command.events:
        tell(turn, event.kind, value(event.data))
    if command.agent is not None and hand_over(session, turn, command.agent, value(command.reason), at):
        what.add("agent")
    turn.input_tokens += command.input_tokens
    turn.output_tokens += command.output_tokens
    if command.ending is not None:
        end(turn, command.ending, at)
        what.add("turns")
    return what


def say(turn: StoredTurn, text: str) -> None:
    last, length = turn.position
    if 0 < length < LONG and text:
        turn.events[last] = ("text", turn.events[last][1] + text)
    elif text:
        tell(turn, "text", text)


def tell(turn: StoredTurn, kind: str, data: Any) -> None:
    turn.events[max(turn.events, default=0) + 1] = (kind, data)


def end(turn: StoredTurn, ending: Ending, at: datetime) -> None:
    turn.status, turn.error, turn.ended_at = ending.status, ending.error, max(at, turn.started_at)
    if ending.error is None:
        tell(turn, "done", {"status": ending.status})
    else:
        error = {"type": "error", "error": value(ending.error), "code": ending.code, "is_final": True}
        tell(turn, "error", error)


def stop(turn: StoredTurn) -> bool:
    """Ask it to stop; whether that is new."""
    asked = turn.status == "running" and not turn.stop_requested
    turn.stop_requested = turn.stop_requested or asked
    return asked


def interrupt(session: Conversation, turn: StoredTurn, beat: int, request: Request) -> None:
    """End it, if it stands still."""
    if turn.status != "running" or turn.beat != beat:
        raise Refusal("turn_lost")
    cut_off(session, turn, DIED, request)


def end_with_session(session: Conversation, request: Request) -> bool:
    """End the turn that runs in a session that is deleted; whether one did."""
    runs = bool(session.turns) and session.turns[-1].status == "running"
    if runs:
        cut_off(session, session.turns[-1], DELETED, request)
    return runs


def cut_off(session: Conversation, turn: StoredTurn, why: str, request: Request) -> None:
    if text := "".join(reversed(list(unfinished(turn)))):
        metadata = {"turn_id": turn.lease.turn_id, "agent": turn.agent, "interrupted": True}
        message = NewMessage("assistant", written(text), metadata=written(metadata))
        add(session, (message,), request.at)
        tell(turn, "message", {"type": "assistant_message", "content": text, "is_final": True})
    end(turn, Ending("interrupted", written(why), "turn_interrupted"), request.at)


def unfinished(turn: StoredTurn) -> Iterator[str]:
    """The texts that it ends in, last first."""
    for n in sorted(turn.events, reverse=True):
        kind, data = turn.events[n]
        if kind != "text":
            return
        yield data


def forget_events(session: Conversation, before: datetime) -> None:
    for turn in session.turns:
        if turn.ended_at is not None and turn.ended_at < before:
            last = max(turn.events)
            turn.events = {last: turn.events[last]}
            turn.events_kept = False


def written(data: Any) -> str:
    """JSON as it is stored."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))
