"""Rows of the database as values, and as what callers see."""

from __future__ import annotations

from runtime.db.database import Row
from runtime.models import AgentContext, AgentSwitch, Session
from runtime.store.commands import SessionKey
from runtime.store.state import ApprovalRow, Details, Head, TurnRow, decode, decode_optional


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
    return Session(
        session_id=row["session_id"],
        title=decode_optional(row["title"] or row["first_user_text"]),
        description=decode_optional(row["description"]),
        metadata=decode(row["metadata"]),
        created_at=row["created_at"],
        last_activity=row["last_activity"],
        is_active=bool(row["is_active"]) and row["deleted_at"] is None,
        deleted_at=row["deleted_at"],
        version=row["version"],
        last_seq=row["last_seq"],
        message_count=row["message_count"],
        current_agent=row["current_agent"],
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
        metadata=decode(row["metadata"]),
    )


def switch_from(row: Row) -> AgentSwitch:
    """A row of `list_agent_switches`."""
    return AgentSwitch(
        id=row["n"],
        from_agent=row["from_agent"],
        to_agent=row["to_agent"],
        switched_at=row["switched_at"],
        reason=decode_optional(row["reason"]),
        metadata=decode(row["metadata"]),
    )
