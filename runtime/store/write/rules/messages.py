"""Rules about messages; see `__init__.py` for what all rules have in common."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from runtime.errors import CutNotMeasured
from runtime.store.messages import NewMessage
from runtime.store.records import MessageRow
from runtime.store.write import commands
from runtime.store.write.batch import Batch, check_version
from runtime.store.write.commands import Request
from runtime.store.write.outcomes import Appended, Outcome, Receipt, Replaced, Truncated
from runtime.store.write.planned_session import PlannedSession
from runtime.store.write.rules.rule import Rules
from runtime.store.write.rules.sessions import new_details


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
    before = session.last_seq
    receipts, removed = replace_history(batch, session, command.messages, request.at)
    if created or removed or session.last_seq > before:
        session.raise_version(request.at, *(("messages",) if removed else ()))
    return Replaced(
        session_id=request.key.session_id,
        version=session.version,
        messages=receipts,
        last_seq=session.last_seq,
        message_count=session.message_count,
    )


def replace_history(
    batch: Batch, session: PlannedSession, messages: Sequence[NewMessage], at: datetime
) -> tuple[list[Receipt], int]:
    """Make these the messages of a session, and keep a beginning that is the same.

    Returns where each message is stored, and how many were taken away.
    """
    kept = _same_beginning(batch, session, messages)
    # Of the kept messages, those stored before this batch.
    tokens = [row.token_count or 0 for row in kept if row.seq <= session.stored_last]
    removed = session.cut(kept[-1].seq if kept else 0, len(tokens), sum(tokens))
    receipts = [Receipt(row.seq, row.timestamp) for row in kept]
    return receipts + session.append(messages[len(kept) :], at), removed


def _same_beginning(
    batch: Batch, session: PlannedSession, messages: Sequence[NewMessage]
) -> list[MessageRow]:
    """The messages at the beginning of the history that equal those of the new history."""
    stored = batch.stored.histories.get(session.id, ())
    history = [row for row in stored if row.seq <= session.stored_last] + session.added
    same = 0
    for row, message in zip(history, messages, strict=False):
        if not is_same(row, message):
            break
        same += 1
    return history[:same]


def is_same(row: MessageRow, message: NewMessage) -> bool:
    """Whether storing `message` would result in `row`."""
    return (
        row.content == message.content
        and row.role == message.role
        and message.timestamp in (None, row.timestamp)
        and row.name == message.name
        and row.tool_call_id == message.tool_call_id
        and row.tool_calls == message.tool_calls
        and row.token_count == message.token_count
        and row.metadata == message.metadata
        and row.extra == message.extra
    )


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
    """The count and the tokens of the messages stored before this batch that a cut leaves."""
    if session.base is None:
        return 0, 0
    if (session.id, after) not in batch.stored.cuts:
        raise CutNotMeasured(session.key.session_id)
    count, tokens = batch.stored.cuts[session.id, after]
    return session.base.message_count - count, session.base.token_total - tokens


RULES: Rules = {
    commands.AppendMessages: _append_messages,
    commands.ReplaceMessages: _replace_messages,
    commands.TruncateMessages: _truncate_messages,
}
