"""Rules about forks; see `__init__.py` for what all rules have in common."""

from __future__ import annotations

from msgspec import UNSET, structs

from runtime.errors import ForkNotCopied, InvalidInput, SessionExists, SessionNotFound, VersionMismatch
from runtime.store.records import Details, Head, SessionKey
from runtime.store.write import fork_commands as commands
from runtime.store.write.batch import Batch, ForkPoint
from runtime.store.write.commands import Command, Request
from runtime.store.write.outcomes import ForkBegun, ForkContinued, Outcome, SessionWritten
from runtime.store.write.planned_session import PlannedSession
from runtime.store.write.rules.rule import Rules


def _fork_session(batch: Batch, request: Request, command: commands.ForkSession) -> Outcome:
    source = _source(batch, request, command)
    existing = batch.find(request.key)
    if existing is not None:
        raise SessionExists(request.key.session_id, deleted=existing.deleted_at is not None)
    through = source.last_seq if command.after is None else command.after
    if through > source.last_seq:
        raise InvalidInput(
            "$.after", f"Expected a number up to {source.last_seq}, that of the last message of the session"
        )
    point = batch.stored.forks.get(request.key)
    # A message that this batch adds is a point for the next one.
    is_contested = request.key in batch.stored.contested or (command.after or 0) > source.stored_last
    if is_contested or point is None or (point.source, point.after) != (source.id, command.after):
        raise ForkNotCopied(command.source, is_contested=is_contested)
    session = batch.add_fork(
        request,
        point,
        _details(request, command, source, point, through),
        _head(request, source, point, through),
        commands.CopiedRows(
            source_db_id=source.id,
            after=point.start,
            through=through,
            last_switch=point.last_switch,
            is_revealed=point.session_db_id is not None,
        ),
    )
    session.raise_version(request.at, "session")
    return SessionWritten(
        session_id=session.key.session_id, version=session.version, session=session.session(), created=True
    )


def _source(batch: Batch, request: Request, command: commands.ForkSession) -> PlannedSession:
    """The session that is forked. Raises SessionNotFound, VersionMismatch."""
    source = batch.find(SessionKey(request.key.owner, command.source))
    if source is None or source.deleted_at is not None:
        raise SessionNotFound(command.source, deleted=source is not None)
    if request.if_match not in (None, source.version):
        raise VersionMismatch(command.source, request.if_match or 0, source.version)
    return source


def _details(
    request: Request, command: commands.ForkSession, source: PlannedSession, point: ForkPoint, through: int
) -> Details:
    details = source.known_details()
    is_titled = source.first_user_seq is not None and source.first_user_seq <= through
    return structs.replace(
        details,
        title=details.title if command.title is UNSET else command.title,
        metadata=details.metadata if command.metadata is UNSET else command.metadata,
        created_at=request.at,
        is_active=True,
        first_user_text=source.first_user_text if is_titled else None,
        current_agent=point.agent,
        switch_count=point.switch_count,
        context_created_at=request.at,
        context_updated_at=request.at,
        last_switch=point.last_switch,
        forked_from_id=command.source,
        forked_from_seq=through,
    )


def _head(request: Request, source: PlannedSession, point: ForkPoint, through: int) -> Head:
    """The head before the version is raised to 1; `add_fork` sets its id."""
    added = [row for row in source.added if row.seq <= through]
    first_user_seq = source.first_user_seq
    return Head(
        id=0,
        key=request.key,
        version=0,
        last_seq=through,
        message_count=point.message_count + len(added),
        token_total=point.token_total + sum([row.token_count or 0 for row in added]),
        last_activity=request.at,
        deleted_at=None,
        cut_version=0,
        changed_version=0,
        cut_after=0,
        cut_through=0,
        first_user_seq=None if first_user_seq is None or first_user_seq > through else first_user_seq,
    )


def _prepare_fork(batch: Batch, request: Request, command: Command) -> Outcome:
    """Begin, continue or abandon a copy that no caller sees yet."""
    match command:
        case commands.BeginFork():
            id = next(batch.new_ids)
            batch.copying["insert_hidden_session"].append((id, request.at))
            batch.copying["insert_unfinished_fork"].append((id, command.instance))
            return ForkBegun(session_id="", version=0, session_db_id=id)
        case commands.CopyMessages():
            place = (command.source_db_id, command.session_db_id, command.after, command.through)
            batch.copying["copy_messages"].append(place)
        case commands.AbandonForks():
            batch.copying["delete_unfinished_fork"] += [(id,) for id in command.session_db_ids]
    return ForkContinued(session_id="", version=0)


RULES: Rules = {
    commands.ForkSession: _fork_session,
    commands.BeginFork: _prepare_fork,
    commands.CopyMessages: _prepare_fork,
    commands.AbandonForks: _prepare_fork,
}
