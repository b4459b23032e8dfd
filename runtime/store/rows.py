"""Rows of the database as values, and as what callers see."""

from __future__ import annotations

from msgspec import Raw

from runtime.db.database import Row
from runtime.models import AgentContext, AgentSwitch, Session
from runtime.store.commands import SessionKey
from runtime.store.state import ApprovalRow, Details, Head, TurnRow, decode_optional


def head_from(row: Row) -> Head:
    """A row of `lock_heads` or `list_heads`."""
    (id, owner, session_id, *rest) = row
    return Head(id, SessionKey(owner, session_id), *rest)


def details_from(row: Row) -> Details:
    """A row of `list_details`."""
    fields = {name: row[name] for name in Details.__struct_fields__}
    return Details(**{**fields, "is_active": bool(row["is_active"])})


def approval_row_from(row: Row) -> ApprovalRow:
    """A row of a statement that lists approvals."""
    return ApprovalRow(*(row[name] for name in ApprovalRow.__struct_fields__))


def turn_row_from(row: Row) -> TurnRow:
    """A row of a statement that lists turns."""
    fields = {name: row[name] for name in TurnRow.__struct_fields__}
    return TurnRow(**{**fields, "stop_requested": bool(row["stop_requested"])})


def session_from(row: Row) -> Session:
    """A row of `find_session` or of a list of sessions."""
    # By their places: SQLite looks for each name among all of them, and a page has fifty rows.
    (_, session_id, title, description, metadata, created_at, last_activity, *rest) = row
    (is_active, deleted_at, version, last_seq, message_count, first_user_text, current_agent) = rest
    return Session(
        session_id=session_id,
        title=decode_optional(title or first_user_text),
        description=decode_optional(description),
        encoded_metadata=Raw(metadata),
        created_at=created_at,
        last_activity=last_activity,
        is_active=bool(is_active) and deleted_at is None,
        deleted_at=deleted_at,
        version=version,
        last_seq=last_seq,
        message_count=message_count,
        current_agent=current_agent,
    )


def context_from(session_id: str, version: int, row: Row) -> AgentContext:
    """A row of `find_agent_context`."""
    return AgentContext(
        session_id=session_id,
        version=version,
        current_agent=row["current_agent"],
        switch_count=row["switch_count"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        encoded_metadata=Raw(row["metadata"]),
    )


def switch_from(row: Row) -> AgentSwitch:
    """A row of `list_agent_switches`."""
    return AgentSwitch(
        id=row["n"],
        from_agent=row["from_agent"],
        to_agent=row["to_agent"],
        switched_at=row["switched_at"],
        reason=decode_optional(row["reason"]),
        encoded_metadata=Raw(row["metadata"]),
    )
