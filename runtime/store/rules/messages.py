"""The rules of messages. What holds of all rules stands in __init__.py."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.errors import CutNotMeasured
from runtime.store import commands
from runtime.store.batch import Batch, check_version
from runtime.store.commands import Appended, NewMessage, Outcome, Receipt, Replaced, Request, Truncated
from runtime.store.planned_session import PlannedSession
from runtime.store.rules.rule import Rules
from runtime.store.rules.sessions import new_details
from runtime.store.state import MessageColumns


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
        session = batch.add(request, new_details(request, commands.CreateSession(request.key)))
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
    batch: Batch, session: PlannedSession, messages: Sequence[NewMessage]
) -> list[MessageColumns]:
    """The messages, from the first on, that are already what they shall be."""
    stored = batch.known.histories.get(session.id, ())
    history = [columns for columns in stored if columns[0] <= session.stored_last]
    history += [columns[1:] for columns in session.added]
    same = 0
    for columns, message in zip(history, messages, strict=False):
        if not is_same(columns, message):
            break
        same += 1
    return history[:same]


def is_same(columns: MessageColumns, message: NewMessage) -> bool:
    """Whether a stored message, its columns without the session's, is what a message would be stored as."""
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


def _stored_part(session: PlannedSession, kept: Sequence[MessageColumns]) -> tuple[int, int]:
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


def _stored_before(batch: Batch, session: PlannedSession, after: int) -> tuple[int, int]:
    """What a cut leaves of the messages stored before this batch: their count and tokens."""
    if session.base is None:
        return 0, 0
    if (session.id, after) not in batch.known.cuts:
        raise CutNotMeasured(session.key.session_id)
    count, tokens = batch.known.cuts[session.id, after]
    return session.base.message_count - count, session.base.token_total - tokens


RULES: Rules = {
    commands.AppendMessages: _append_messages,
    commands.ReplaceMessages: _replace_messages,
    commands.TruncateMessages: _truncate_messages,
}
