"""Rules about running turns; see `__init__.py` for what all rules have in common."""

from __future__ import annotations

from runtime.errors import TurnLost, TurnNotFound
from runtime.store import turn_events as events
from runtime.store.changes import Change
from runtime.store.messages import NewMessage
from runtime.store.records import JsonText, TurnRow, decode, decode_optional, encode_text, turn_from
from runtime.store.write import turn_commands as commands
from runtime.store.write.batch import Batch
from runtime.store.write.commands import Request
from runtime.store.write.outcomes import TurnWritten
from runtime.store.write.planned_session import PlannedSession
from runtime.store.write.planned_turn import PlannedTurn
from runtime.store.write.rules.agents import switch
from runtime.store.write.rules.approvals import check_unused, new_approval
from runtime.store.write.rules.rule import Rules
from runtime.store.write.turn_commands import Ending

INTERRUPTED = "the turn was cut off: nobody runs it any more; what was said is kept"
DELETED = "the session was deleted while the turn ran; what was said is kept"


def hand_over(
    session: PlannedSession, turn: PlannedTurn, request: Request, agent: str, reason: JsonText | None
) -> bool:
    """Hand a turn and its session over to an agent; return False if the agent holds the session already."""
    from_agent = session.known_details().current_agent
    if not switch(session, request, agent, reason):
        return False
    turn.change(agent=agent)
    turn.append_event(events.agent_switched(from_agent, agent, decode_optional(reason)))
    return True


def _advance_turn(batch: Batch, request: Request, command: commands.AdvanceTurn) -> TurnWritten:
    session = batch.get(request)
    turn = batch.turn(session)
    if turn is None or (turn.row.turn_id, turn.row.instance) != (command.turn_id, command.instance):
        raise TurnLost(command.turn_id)
    if _is_stored(turn.row, command):
        return turn_written(session, turn)
    if turn.row.beat != command.after or not turn.row.runs:
        raise TurnLost(command.turn_id)
    for approval in command.approvals:
        check_unused(batch, session, approval.call_id)
    _advance(session, turn, request, command)
    return turn_written(session, turn)


def _is_stored(row: TurnRow, command: commands.AdvanceTurn) -> bool:
    """Whether the command repeats a stored step: only its instance advances the turn."""
    status = "running" if command.ending is None else command.ending.status
    return row.beat == command.after + 1 and row.status == status


def _advance(
    session: PlannedSession, turn: PlannedTurn, request: Request, command: commands.AdvanceTurn
) -> None:
    changes: set[Change] = set()
    turn.renew()
    turn.append_text(command.texts)
    session.append(command.messages, request.at)
    # Not before the turn's start: the calling agent is found by this time (`find_calling_agent`).
    asked_at = max(request.at, turn.row.started_at)
    for approval in command.approvals:
        session.approvals[approval.call_id] = new_approval(approval, asked_at)
        changes.add("approvals")
    for event in command.events:
        turn.append_event(event)
    if command.agent is not None and hand_over(session, turn, request, command.agent, command.reason):
        changes.add("agent")
    turn.change(
        input_tokens=turn.row.input_tokens + command.input_tokens,
        output_tokens=turn.row.output_tokens + command.output_tokens,
    )
    if command.ending is not None:
        end_turn(turn, request, command.ending)
        changes.add("turns")
    if changes or command.messages:
        session.raise_version(request.at, *sorted(changes))


def end_turn(turn: PlannedTurn, request: Request, ending: Ending) -> None:
    """End a turn, with an event for its followers."""
    turn.append_event(
        events.done(ending.status)
        if ending.error is None
        else events.error(decode(ending.error), ending.code)
    )
    turn.end(request.at, ending.status, ending.error)


def _stop_turn(batch: Batch, request: Request, command: commands.StopTurn) -> TurnWritten:
    session = batch.get(request)
    turn = _last_turn(batch, session, command.turn_id)
    if turn.row.runs and not turn.row.stop_requested:
        turn.change(stop_requested=True)
        session.raise_version(request.at, "turns")
    return turn_written(session, turn)


def _interrupt_turn(batch: Batch, request: Request, command: commands.InterruptTurn) -> TurnWritten:
    session = batch.get(request)
    turn = _last_turn(batch, session, command.turn_id)
    if not turn.row.runs or turn.row.beat != command.beat:
        raise TurnLost(command.turn_id)
    _interrupt(batch, session, turn, request, INTERRUPTED)
    session.raise_version(request.at, "turns")
    return turn_written(session, turn)


def end_with_session(batch: Batch, session: PlannedSession, request: Request) -> bool:
    """End the running turn of a session that is being deleted; return whether there is one.

    After a restore the session can start a new turn at once, even if the instance that runs the old one has
    not been notified.
    """
    turn = batch.turn(session)
    if turn is None or not turn.row.runs:
        return False
    _interrupt(batch, session, turn, request, DELETED)
    return True


def _last_turn(batch: Batch, session: PlannedSession, turn_id: str) -> PlannedTurn:
    turn = batch.turn(session)
    if turn is None or turn.row.turn_id != turn_id:
        raise TurnNotFound(session.key.session_id, turn_id)
    return turn


def _interrupt(
    batch: Batch, session: PlannedSession, turn: PlannedTurn, request: Request, reason: str
) -> None:
    """End a turn that cannot be continued, and keep its text as a message."""
    turn.interrupted = True
    if text := turn.unfinished(batch.stored.unfinished.get(session.id, "")):
        metadata = {"turn_id": turn.row.turn_id, "agent": turn.row.agent, "interrupted": True}
        content = f'"{text}"'
        session.append([NewMessage("assistant", content, metadata=encode_text(metadata))], request.at)
        turn.append_event(events.assistant_message(content))
    end_turn(turn, request, Ending("interrupted", encode_text(reason), "turn_interrupted"))


def turn_written(session: PlannedSession, turn: PlannedTurn) -> TurnWritten:
    """The outcome of a command about a turn."""
    return TurnWritten(
        session_id=session.key.session_id,
        version=session.version,
        turn=turn_from(turn.row),
        session_db_id=session.id,
        n=turn.row.n,
        stop_requested=turn.row.stop_requested,
        beat=turn.row.beat,
    )


RULES: Rules = {
    commands.AdvanceTurn: _advance_turn,
    commands.StopTurn: _stop_turn,
    commands.InterruptTurn: _interrupt_turn,
}
