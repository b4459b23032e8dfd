"""The rules of the domain, one function a command.

Each works on what the requests before it left, changes that, and returns the outcome. It raises before
it changes anything: a command that fails leaves everything as it was (W3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from msgspec import UNSET, structs

from runtime.errors import (
    ApprovalDecided,
    ApprovalExists,
    ApprovalExpired,
    ApprovalNotFound,
    SessionExists,
    SessionNotFound,
)
from runtime.store import commands
from runtime.store.batch import Batch, check_version
from runtime.store.commands import (
    Appended,
    ApprovalDeleted,
    ApprovalWritten,
    Command,
    ContextWritten,
    Forgotten,
    NewMessage,
    Outcome,
    Receipt,
    Replaced,
    Request,
    SessionDeleted,
    SessionWritten,
    Switched,
    Truncated,
)
from runtime.store.state import ApprovalRow, Details, MessageColumns, approval_from
from runtime.store.working import WorkingSession

STATUS = {"approve": "approved", "edit": "edited", "reject": "rejected"}


def _create_session(batch: Batch, request: Request, command: commands.CreateSession) -> Outcome:
    existing = batch.find(request.key)
    if existing is not None and command.if_missing:
        return _written(batch.get(request))
    if existing is not None:
        raise SessionExists(request.key.session_id, deleted=existing.deleted_at is not None)
    check_version(request, 0)
    session = batch.add(request, _new_details(request, command))
    session.append(command.messages, request.at)
    session.raise_version(request.at, "session")
    return _written(session, created=True)


def _new_details(request: Request, command: commands.CreateSession) -> Details:
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
    )


def _written(session: WorkingSession, *, created: bool = False) -> SessionWritten:
    return SessionWritten(
        session_id=session.key.session_id,
        version=session.version,
        session=session.session(),
        created=created,
    )


def _update_session(batch: Batch, request: Request, command: commands.UpdateSession) -> Outcome:
    session = batch.get(request)
    before = session.details
    fields = {name: getattr(command, name) for name in ("title", "description", "metadata", "is_active")}
    session.change_details(**{name: value for name, value in fields.items() if value is not UNSET})
    if session.details != before:
        session.raise_version(request.at, "session")
    return _written(session)


def _delete_session(batch: Batch, request: Request, command: commands.DeleteSession) -> Outcome:
    if command.idle_since is not None or command.deleted_since is not None:
        session = batch.find(request.key)
        if session is None or not _may_clean(session, command):
            return SessionDeleted(session_id=request.key.session_id, version=0, deleted=False)
    else:
        session = batch.get(request)
    if command.hard:
        batch.erase(session)
    else:
        session.known_details()
        session.deleted_at = request.at
        # Being deleted is no activity of a session.
        session.raise_version(session.last_activity, "deleted")
    return SessionDeleted(session_id=request.key.session_id, version=session.version)


def _may_clean(session: WorkingSession, command: commands.DeleteSession) -> bool:
    """Whether the condition that the cleanup saw still holds, now under the lock."""
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


def _append_messages(batch: Batch, request: Request, command: commands.AppendMessages) -> Outcome:
    session = batch.get(request)
    receipts = session.append(command.messages, request.at)
    if receipts:
        session.raise_version(request.at)
    return Appended(
        session_id=request.key.session_id,
        version=session.version,
        messages=receipts,
        last_seq=session.last_seq,
    )


def _replace_messages(batch: Batch, request: Request, command: commands.ReplaceMessages) -> Outcome:
    created = command.create and batch.find(request.key) is None
    if created:
        check_version(request, 0)
        session = batch.add(request, _new_details(request, commands.CreateSession(request.key)))
    else:
        session = batch.get(request)
    kept = _same_beginning(batch, session, command.messages)
    removed = session.cut(kept[-1][0] if kept else 0, *_stored_part(session, kept))
    receipts = [Receipt(columns[0], columns[3]) for columns in kept]
    added = session.append(command.messages[len(kept) :], request.at)
    if created or removed or added:
        session.raise_version(request.at, *(("messages",) if removed else ()))
    return Replaced(
        session_id=request.key.session_id,
        version=session.version,
        messages=receipts + added,
        last_seq=session.last_seq,
        message_count=session.message_count,
    )


def _same_beginning(
    batch: Batch, session: WorkingSession, messages: Sequence[NewMessage]
) -> list[MessageColumns]:
    """The messages, from the first on, that are already what they shall be."""
    stored = batch.known.histories.get(session.id, ())
    history = [columns for columns in stored if columns[0] <= session.stored_last]
    history += [columns[1:] for columns in session.added]
    same = 0
    for columns, message in zip(history, messages, strict=False):
        if not _is_same(columns, message):
            break
        same += 1
    return history[:same]


def _is_same(columns: MessageColumns, message: NewMessage) -> bool:
    _, role, content, timestamp, *others = columns
    return (
        content == message.content
        and role == message.role
        and message.timestamp in (None, timestamp)
        and others
        == [
            message.name,
            message.tool_call_id,
            message.tool_calls,
            message.token_count,
            message.metadata,
            message.extra,
        ]
    )


def _stored_part(session: WorkingSession, kept: Sequence[MessageColumns]) -> tuple[int, int]:
    """How many of the kept messages were stored before this batch, and their tokens."""
    tokens = [columns[7] or 0 for columns in kept if columns[0] <= session.stored_last]
    return len(tokens), sum(tokens)


def _truncate_messages(batch: Batch, request: Request, command: commands.TruncateMessages) -> Outcome:
    session = batch.get(request)
    deleted = session.cut(command.after, *_stored_before(batch, session, command.after))
    if deleted:
        session.raise_version(request.at, "messages")
    return Truncated(
        session_id=request.key.session_id,
        version=session.version,
        deleted=deleted,
        last_seq=session.last_seq,
    )


def _stored_before(batch: Batch, session: WorkingSession, after: int) -> tuple[int, int]:
    """What a cut leaves of the messages stored before this batch: their count and tokens."""
    if session.base is None:
        return 0, 0
    count, tokens = batch.known.cuts[session.id, after]
    return session.base.message_count - count, session.base.token_total - tokens


def _switch_agent(batch: Batch, request: Request, command: commands.SwitchAgent) -> Outcome:
    session = batch.get(request)
    details = session.known_details()
    if command.agent != details.current_agent:
        count = details.switch_count + 1
        session.change_details(current_agent=command.agent, switch_count=count, context_updated_at=request.at)
        session.switches.append(
            (
                *(session.id, count, details.current_agent, command.agent, request.at),
                *(command.reason, command.metadata),
            )
        )
        session.raise_version(request.at, "agent")
    return Switched(
        session_id=request.key.session_id,
        version=session.version,
        from_agent=details.current_agent,
        to_agent=command.agent,
        switch_count=session.known_details().switch_count,
    )


def _update_context(batch: Batch, request: Request, command: commands.UpdateContext) -> Outcome:
    session = batch.get(request)
    if session.known_details().context_metadata != command.metadata:
        session.change_details(context_metadata=command.metadata, context_updated_at=request.at)
        session.raise_version(request.at, "context")
    return ContextWritten(
        session_id=request.key.session_id, version=session.version, context=session.context()
    )


def _create_approval(batch: Batch, request: Request, command: commands.CreateApproval) -> Outcome:
    session = batch.get(request)
    if batch.approval(session, command.call_id) is not None:
        raise ApprovalExists(request.key.session_id, command.call_id)
    seconds = command.expires_in
    approval = ApprovalRow(
        call_id=command.call_id,
        tool_name=command.tool_name,
        arguments=command.arguments,
        reason=command.reason,
        status="pending",
        created_at=request.at,
        expires_at=None if seconds is None else request.at + timedelta(seconds=seconds),
        decided_at=None,
        modified_arguments=None,
        feedback=None,
    )
    return _put_approval(session, request, approval)


def _put_approval(session: WorkingSession, request: Request, approval: ApprovalRow) -> ApprovalWritten:
    if session.approvals.get(approval.call_id) != approval:
        session.approvals[approval.call_id] = approval
        session.raise_version(request.at, "approvals")
    return ApprovalWritten(
        session_id=request.key.session_id,
        version=session.version,
        approval=approval_from(request.key.session_id, approval),
    )


def _get_approval(batch: Batch, session: WorkingSession, call_id: str) -> ApprovalRow:
    approval = batch.approval(session, call_id)
    if approval is None:
        raise ApprovalNotFound(session.key.session_id, call_id)
    return approval


def _decide_approval(batch: Batch, request: Request, command: commands.DecideApproval) -> Outcome:
    session = batch.get(request)
    approval = _get_approval(batch, session, command.call_id)
    status = STATUS[command.decision]
    if approval.status != "pending":
        if (status, command.modified_arguments) != (approval.status, approval.modified_arguments):
            raise ApprovalDecided(command.call_id, approval.status)
        return _put_approval(session, request, approval)
    if approval.expires_at is not None and approval.expires_at <= request.at:
        raise ApprovalExpired(command.call_id)
    decided: dict[str, Any] = {
        "status": status,
        "decided_at": request.at,
        "modified_arguments": command.modified_arguments,
        "feedback": command.feedback,
    }
    return _put_approval(session, request, structs.replace(approval, **decided))


def _delete_approval(batch: Batch, request: Request, command: commands.DeleteApproval) -> Outcome:
    session = batch.get(request)
    _get_approval(batch, session, command.call_id)
    del session.approvals[command.call_id]
    if command.call_id in session.stored_approvals:
        session.deleted_approvals.add(command.call_id)
    session.raise_version(request.at, "approvals")
    return ApprovalDeleted(session_id=request.key.session_id, version=session.version)


def _forget_old(batch: Batch, request: Request, command: commands.ForgetOld) -> Outcome:
    batch.forget_before = command.before
    return Forgotten(session_id="", version=0)


RULES: dict[type[Command], Callable[[Batch, Request, Any], Outcome]] = {
    commands.CreateSession: _create_session,
    commands.UpdateSession: _update_session,
    commands.DeleteSession: _delete_session,
    commands.RestoreSession: _restore_session,
    commands.AppendMessages: _append_messages,
    commands.ReplaceMessages: _replace_messages,
    commands.TruncateMessages: _truncate_messages,
    commands.SwitchAgent: _switch_agent,
    commands.UpdateContext: _update_context,
    commands.CreateApproval: _create_approval,
    commands.DecideApproval: _decide_approval,
    commands.DeleteApproval: _delete_approval,
    commands.ForgetOld: _forget_old,
}
