"""The lines of an export: JSON Lines that hold sessions exactly as they are stored.

The first line is the header, the last one the end. Between them each session has a line of its own, and then
its switches, approvals, turns and messages. Idempotency keys, tokens and events of turns are not exported.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from runtime.db.database import Row
from runtime.models import MAX_SEQ, ApprovalStatus, ForkOrigin, Key, Seq, Time, TurnStatus
from runtime.store.messages import encode_message
from runtime.store.records import ApprovalRow, JsonText, MessageRow, SwitchRow, encode_text, fork_origin

FORMAT, FORMAT_VERSION = "agent-runtime", 1

Positive = Annotated[int, Meta(ge=1, le=MAX_SEQ)]
NULL = Raw(b"null")


class ExportedSession(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A session as stored. Its title is null where it comes from the first message of the user."""

    id: str = ""
    owner: str
    session_id: Key
    title: Raw = NULL
    description: Raw = NULL
    metadata: Raw
    created_at: Time
    last_activity: Time
    is_active: bool
    deleted_at: Time | None = None
    version: Positive
    last_seq: Seq
    message_count: Seq
    current_agent: Key
    forked_from: ForkOrigin | None = None


class ExportedContext(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The agent context of a session. One that `is_bare` was never saved by itself."""

    current_agent: Key
    switch_count: Seq
    created_at: Time
    updated_at: Time
    metadata: Raw
    is_bare: bool = False


class ExportedSwitch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A handover. `id` is its number within the session."""

    id: Positive
    from_agent: Key | None = None
    to_agent: Key
    switched_at: Time
    reason: Raw = NULL
    metadata: Raw


class ExportedApproval(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An approval. `modified_arguments` are left out where there are none: null may be arguments."""

    call_id: Key
    tool_name: Raw
    arguments: Raw
    reason: Raw = NULL
    status: ApprovalStatus
    created_at: Time
    expires_at: Time | None = None
    decided_at: Time | None = None
    modified_arguments: Raw | UnsetType = UNSET
    feedback: Raw = NULL


class ExportedTurn(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A turn, without its events. They are in the order in which they were started."""

    turn_id: Key
    status: TurnStatus
    agent: Key
    started_at: Time
    ended_at: Time | None = None
    error: Raw = NULL
    input_tokens: Seq
    output_tokens: Seq


class ExportEnd(Struct, frozen=True, forbid_unknown_fields=True):
    """How much an export holds."""

    sessions: Seq
    messages: Seq


class ExportLine(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Any line: the members that belong together are set."""

    format: str | UnsetType = UNSET
    version: int | UnsetType = UNSET
    exported_at: Time | UnsetType = UNSET
    session: ExportedSession | UnsetType = UNSET
    context: ExportedContext | UnsetType = UNSET
    message: Raw | UnsetType = UNSET
    switch: ExportedSwitch | UnsetType = UNSET
    approval: ExportedApproval | UnsetType = UNSET
    turn: ExportedTurn | UnsetType = UNSET
    end: ExportEnd | UnsetType = UNSET


def header_line(at: datetime) -> bytes:
    """The first line."""
    return _encode(ExportLine(format=FORMAT, version=FORMAT_VERSION, exported_at=at))


def end_line(sessions: int, messages: int) -> bytes:
    """The last line, without which an export is not whole."""
    return _encode(ExportLine(end=ExportEnd(sessions, messages)))


def session_line(row: Row) -> bytes:
    """A row of `list_sessions_to_export`."""
    session = ExportedSession(
        id=row["session_id"],
        owner=row["owner"],
        session_id=row["session_id"],
        title=_raw(row["title"]),
        description=_raw(row["description"]),
        metadata=_raw(row["metadata"]),
        created_at=row["created_at"],
        last_activity=row["last_activity"],
        is_active=bool(row["is_active"]),
        deleted_at=row["deleted_at"],
        version=row["version"],
        last_seq=row["last_seq"],
        message_count=row["message_count"],
        current_agent=row["current_agent"],
        forked_from=fork_origin(row["forked_from_id"], row["forked_from_seq"]),
    )
    context = ExportedContext(
        current_agent=row["current_agent"],
        switch_count=row["switch_count"],
        created_at=row["context_created_at"],
        updated_at=row["context_updated_at"],
        metadata=_raw(row["context_metadata"]),
        is_bare=bool(row["is_bare"]),
    )
    return _encode(ExportLine(session=session, context=context))


def switch_line(row: SwitchRow) -> bytes:
    """A handover."""
    switch = ExportedSwitch(
        id=row.n,
        from_agent=row.from_agent or None,
        to_agent=row.to_agent,
        switched_at=row.switched_at,
        reason=_raw(row.reason),
        metadata=_raw(row.metadata),
    )
    return _encode(ExportLine(switch=switch))


def approval_line(row: ApprovalRow) -> bytes:
    """An approval."""
    approval = ExportedApproval(
        call_id=row.call_id,
        tool_name=_raw(row.tool_name),
        arguments=_raw(row.arguments),
        reason=_raw(row.reason),
        status=row.status,
        created_at=row.created_at,
        expires_at=row.expires_at,
        decided_at=row.decided_at,
        modified_arguments=UNSET if row.modified_arguments is None else Raw(row.modified_arguments),
        feedback=_raw(row.feedback),
    )
    return _encode(ExportLine(approval=approval))


def turn_line(row: Row) -> bytes:
    """A row of `list_turns_to_export`."""
    fields = {name: row[name] for name in ExportedTurn.__struct_fields__}
    return _encode(ExportLine(turn=ExportedTurn(**{**fields, "error": _raw(row["error"])})))


def message_line(row: MessageRow) -> bytes:
    """A message."""
    return _in_one_line(b'{"message":%b}' % encode_message(row))


def _raw(text: JsonText | None) -> Raw:
    return NULL if text is None else Raw(text)


def _encode(line: ExportLine) -> bytes:
    return _in_one_line(encode_text(line).encode())


def _in_one_line(line: bytes) -> bytes:
    # A text that another program has stored may be JSON with line breaks between its tokens.
    return line.replace(b"\n", b" ").replace(b"\r", b" ") + b"\n"
