"""Rules about sessions; see `__init__.py` for what all rules have in common."""

from __future__ import annotations

from msgspec import UNSET

from runtime.errors import InvalidInput, MetadataNotLoaded, SessionExists, SessionNotFound
from runtime.store.changes import Change
from runtime.store.merge_patch import merge
from runtime.store.records import Details, JsonText, bytes_of
from runtime.store.validation import json_list
from runtime.store.write import commands
from runtime.store.write.batch import Batch, check_version
from runtime.store.write.commands import Request
from runtime.store.write.outcomes import (
    Erased,
    Forgotten,
    Labelled,
    Outcome,
    SessionDeleted,
    SessionErased,
    SessionWritten,
)
from runtime.store.write.planned_session import PlannedSession
from runtime.store.write.rules.rule import Rules
from runtime.store.write.rules.turns import end_with_session

# The most bytes that metadata may grow to by merging: many small changes must not make a session that
# nobody can read.
MAX_METADATA = 8 * 1024 * 1024


def _create_session(batch: Batch, request: Request, command: commands.CreateSession) -> Outcome:
    existing = batch.find(request.key)
    if existing is not None and command.if_missing:
        return _written(batch.get(request))
    if existing is not None:
        raise SessionExists(request.key.session_id, deleted=existing.deleted_at is not None)
    check_version(request, 0)
    session = batch.add(request, new_details(request, command))
    session.append(command.messages, request.at)
    session.raise_version(request.at, "session")
    return _written(session, created=True)


def new_details(request: Request, command: commands.CreateSession) -> Details:
    """The details of a new session."""
    return Details(
        title=command.title,
        description=command.description,
        metadata=command.metadata,
        created_at=request.at,
        is_active=True,
        first_user_text=None,
        current_agent=command.agent,
        switch_count=0,
        context_metadata="{}",
        context_created_at=request.at,
        context_updated_at=request.at,
        last_switch=0,
    )


def _written(session: PlannedSession, *, created: bool = False) -> SessionWritten:
    return SessionWritten(
        session_id=session.key.session_id,
        version=session.version,
        session=session.session(),
        created=created,
    )


def _update_session(batch: Batch, request: Request, command: commands.UpdateSession) -> Outcome:
    session = batch.get(request)
    before = session.details
    fields = {name: getattr(command, name) for name in ("title", "description", "is_active")}
    if command.metadata is not UNSET:
        fields["metadata"] = _merged(session, command.metadata)
    session.change_details(**{name: value for name, value in fields.items() if value is not UNSET})
    if session.details != before:
        session.raise_version(request.at, "session")
    return _written(session)


def _merged(session: PlannedSession, patch: JsonText) -> JsonText | None:
    """The metadata after a patch. Raises MetadataNotLoaded, InvalidInput."""
    stored = session.known_details().metadata
    if patch == "{}":
        return stored
    if stored is None and patch != "null":
        raise MetadataNotLoaded(session.key.session_id)
    merged = merge(stored or "{}", patch)
    if (size := bytes_of(merged)) > max(MAX_METADATA, bytes_of(stored)):
        raise InvalidInput(
            "$.metadata", f"Expected at most {MAX_METADATA} bytes of metadata in all, got {size} by merging"
        )
    return merged


def _delete_session(batch: Batch, request: Request, command: commands.DeleteSession) -> Outcome:
    if command.idle_since is not None or command.deleted_since is not None:
        session = batch.find(request.key)
        if session is None or not _may_clean(session, command):
            return SessionDeleted(session_id=request.key.session_id, version=0, deleted=False)
    else:
        session = batch.get(request)
    if command.hard:
        batch.erase(session, request.at)
    else:
        session.known_details()
        ended: list[Change] = ["turns"] if end_with_session(batch, session, request) else []
        session.deleted_at = request.at
        # A deletion does not count as activity.
        session.raise_version(session.last_activity, "deleted", *ended)
    return SessionDeleted(session_id=request.key.session_id, version=session.version)


def _erase_session(batch: Batch, request: Request, command: commands.EraseSession) -> Outcome:
    session = batch.find(request.key)
    if session is None:
        return SessionErased(session_id=request.key.session_id, version=0, found=False)
    batch.erase(session, request.at)
    return SessionErased(
        session_id=request.key.session_id,
        version=session.version,
        found=True,
        message_count=session.message_count,
    )


def _may_clean(session: PlannedSession, command: commands.DeleteSession) -> bool:
    """Whether the condition of the cleanup still holds, now that the head is locked."""
    if command.idle_since is not None:
        return session.deleted_at is None and session.last_activity < command.idle_since
    since = command.deleted_since
    return session.deleted_at is not None and since is not None and session.deleted_at < since


def _restore_session(batch: Batch, request: Request, command: commands.RestoreSession) -> Outcome:
    session = batch.find(request.key)
    if session is None:
        raise SessionNotFound(request.key.session_id)
    check_version(request, session.version)
    if session.deleted_at is not None:
        session.deleted_at = None
        session.raise_version(request.at, "session")
    return _written(session)


def _forget_old(batch: Batch, request: Request, command: commands.ForgetOld) -> Outcome:
    batch.forget_before = command.before
    batch.forget_events_before = command.events_before
    return Forgotten(session_id="", version=0)


def _delete_keys(batch: Batch, request: Request, command: commands.DeleteKeys) -> Outcome:
    batch.deleted_keys.append((request.key.owner, json_list(command.keys)))
    return Forgotten(session_id="", version=0)


def _erase_rows(batch: Batch, request: Request, command: commands.EraseRows) -> Outcome:
    portions = batch.erase_portions()
    return Erased(
        session_id="",
        version=0,
        rows=sum(portion.rows for portion in portions),
        finished=tuple(portion.session_db_id for portion in portions if portion.finished),
    )


def _label_sessions(batch: Batch, request: Request, command: commands.LabelSessions) -> Outcome:
    # What this batch changes is labelled with a later portion, from what is stored then.
    changed = {session.id for session in batch.sessions.values()}
    batch.unlabelled = [session for session in batch.stored.unlabelled if session.id not in changed]
    return Labelled(session_id="", version=0, sessions=len(batch.unlabelled))


RULES: Rules = {
    commands.CreateSession: _create_session,
    commands.UpdateSession: _update_session,
    commands.DeleteSession: _delete_session,
    commands.EraseSession: _erase_session,
    commands.DeleteKeys: _delete_keys,
    commands.RestoreSession: _restore_session,
    commands.ForgetOld: _forget_old,
    commands.EraseRows: _erase_rows,
    commands.LabelSessions: _label_sessions,
}
