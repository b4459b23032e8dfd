"""The rules of imports. What holds of all rules stands in __init__.py.

Each command may be repeated: what an earlier one stored is not stored twice.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from runtime.errors import InvalidInput, SessionNotFound
from runtime.store.messages import NewMessage
from runtime.store.records import Details, ImportMark
from runtime.store.write import commands
from runtime.store.write.batch import Batch
from runtime.store.write.commands import Request
from runtime.store.write.outcomes import Imported, Outcome
from runtime.store.write.planned_session import PlannedSession
from runtime.store.write.planned_turn import PlannedTurn
from runtime.store.write.rules.rule import Rules

# A session that keeps its own version begins with this one: each portion raises it by one, and the last one
# sets it to what it was. It only ever grows, as readers and caches expect.
UNFINISHED_VERSION = -(2**40)


def _import_session(batch: Batch, request: Request, command: commands.ImportSession) -> Outcome:
    existing = batch.find(request.key)
    if existing is not None:
        rest = commands.ImportMessages(
            command.key,
            command.source,
            0,
            command.messages,
            is_whole=command.is_whole,
            version=command.version,
            last_seq=command.last_seq,
            deleted_at=command.deleted_at,
        )
        return _import_messages(batch, request, rest)
    session = batch.add(request, _details(command))
    session.last_activity, session.deleted_at = command.last_activity, command.deleted_at
    session.is_bare = command.is_bare
    session.switches += command.switches
    session.approvals.update({approval.call_id: approval for approval in command.approvals})
    session.turns += [PlannedTurn(session.id, turn, stored=None) for turn in command.turns]
    if command.version is not None:
        # A client must not see a part, and not go on with it.
        session.version, session.deleted_at = UNFINISHED_VERSION, request.at
    _append_missing(session, 0, command.messages)
    session.raise_version(command.last_activity, "session")
    session.import_mark = ImportMark(command.source)
    if command.is_whole:
        _finish(session, command)
    return structs.replace(_imported(batch, session), created=True)


def _append_missing(session: PlannedSession, after: int, messages: Sequence[NewMessage]) -> bool:
    """Append those of the messages after a number that the session lacks; return whether there are any.

    A numbered message keeps its number; any other is the next one.
    """
    is_any = False
    for number, message in enumerate(messages, after + 1):
        seq = message.seq if isinstance(message, commands.NumberedMessage) else number
        if seq > session.last_seq:
            session.last_seq = seq - 1
            session.append([message], session.last_activity)
            is_any = True
    return is_any


def _finish(session: PlannedSession, command: commands.ImportSession | commands.ImportMessages) -> None:
    """Mark a session as whole; one that keeps its version gets it."""
    if command.version is not None:
        session.version, session.deleted_at = command.version, command.deleted_at
        session.last_seq = max(session.last_seq, command.last_seq)
    session.import_mark = ImportMark(command.source, session.version)


def _details(command: commands.ImportSession) -> Details:
    origin = command.forked_from
    return Details(
        title=command.title,
        description=command.description,
        metadata=command.metadata,
        created_at=command.created_at,
        is_active=command.is_active,
        first_user_text=None,
        current_agent=command.agent,
        switch_count=command.switch_count,
        context_metadata=command.context_metadata,
        context_created_at=command.context_created_at,
        context_updated_at=command.context_updated_at,
        last_switch=max((switch.n for switch in command.switches), default=0),
        forked_from_id=None if origin is None else origin.session_id,
        forked_from_seq=None if origin is None else origin.seq,
    )


def _imported(batch: Batch, session: PlannedSession) -> Imported:
    return Imported(
        session_id=session.key.session_id, version=session.version, mark=batch.import_mark(session)
    )


def _import_messages(batch: Batch, request: Request, command: commands.ImportMessages) -> Outcome:
    session = batch.find(request.key)
    if session is None:
        raise SessionNotFound(request.key.session_id)
    mark = batch.import_mark(session)
    if mark != ImportMark(command.source):
        return _imported(batch, session)
    if session.last_seq < command.after:
        raise InvalidInput("$.after", f"Expected a number up to {session.last_seq}, that of the last message")
    if _append_missing(session, command.after, command.messages) or command.is_whole:
        session.raise_version(session.last_activity)
    if command.is_whole:
        _finish(session, command)
    return structs.replace(_imported(batch, session), was_continued=True)


RULES: Rules = {
    commands.ImportSession: _import_session,
    commands.ImportMessages: _import_messages,
}
