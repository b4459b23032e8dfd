"""The rules of imports. What holds of all rules stands in __init__.py.

Each command may be repeated: what an earlier one stored is not stored twice.
"""

from __future__ import annotations

from msgspec import structs

from runtime.errors import InvalidInput, SessionNotFound
from runtime.store.records import Details, ImportMark
from runtime.store.write import commands
from runtime.store.write.batch import Batch
from runtime.store.write.commands import Request
from runtime.store.write.outcomes import Imported, Outcome
from runtime.store.write.planned_session import PlannedSession
from runtime.store.write.rules.rule import Rules


def _import_session(batch: Batch, request: Request, command: commands.ImportSession) -> Outcome:
    existing = batch.find(request.key)
    if existing is not None:
        rest = commands.ImportMessages(
            command.key, command.source, 0, command.messages, is_whole=command.is_whole
        )
        return _import_messages(batch, request, rest)
    session = batch.add(request, _details(command))
    session.last_activity, session.deleted_at = command.last_activity, command.deleted_at
    session.switches += command.switches
    session.approvals.update({approval.call_id: approval for approval in command.approvals})
    session.append(command.messages, command.last_activity)
    session.raise_version(command.last_activity, "session")
    session.import_mark = ImportMark(command.source, session.version if command.is_whole else None)
    return structs.replace(_imported(batch, session), created=True)


def _details(command: commands.ImportSession) -> Details:
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
    stored = session.last_seq - command.after
    if stored < 0:
        raise InvalidInput("$.after", f"Expected a number up to {session.last_seq}, that of the last message")
    missing = command.messages[stored:]
    session.append(missing, session.last_activity)
    if missing or command.is_whole:
        session.raise_version(session.last_activity)
    if command.is_whole:
        session.import_mark = ImportMark(command.source, session.version)
    return structs.replace(_imported(batch, session), was_continued=True)


RULES: Rules = {
    commands.ImportSession: _import_session,
    commands.ImportMessages: _import_messages,
}
