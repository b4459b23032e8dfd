"""Records: rows as the database stores them, and their conversion to the public models."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw, Struct

from runtime.db.database import Row
from runtime.models import (
    AgentContext,
    AgentSwitch,
    Approval,
    ApprovalStatus,
    ForkOrigin,
    Session,
    Turn,
    TurnStatus,
    decode_json,
)

# Texts and structures are stored as JSON text.
JsonText = str

# Texts of more bytes than this are not kept under an idempotency key, nor loaded for a batch that leaves them
# unchanged.
LARGE_TEXT = 64 * 1024

decode = decode_json
_encode = msgspec.json.Encoder().encode


def decode_optional(text: JsonText | None) -> Any:
    """The value of a JSON text, or None for None."""
    return None if text is None else decode(text)


def bytes_of(*texts: JsonText | None) -> int:
    """The bytes of texts as UTF-8, by which pages are bounded."""
    return sum([len(text) if text.isascii() else len(text.encode()) for text in texts if text is not None])


def encode_text(value: Any) -> JsonText:
    """The JSON text of a value that is known to be valid."""
    return _encode(value).decode()


class SessionKey(Struct, frozen=True, order=True):
    """The key of a session: its owner (empty without access control) and its id."""

    owner: str
    session_id: str


class MessageRow(NamedTuple):
    """A message as stored, in the order of the columns of every statement that lists messages."""

    seq: int
    role: str
    content: JsonText
    timestamp: datetime
    name: JsonText | None
    tool_call_id: JsonText | None
    tool_calls: JsonText | None
    token_count: int | None
    metadata: JsonText | None
    extra: JsonText | None

    @property
    def size(self) -> int:
        """The bytes of its texts as UTF-8."""
        return bytes_of(
            self.content, self.name, self.tool_call_id, self.tool_calls, self.metadata, self.extra
        )


class Head(Struct, frozen=True):
    """The small row of a session that serves as its lock and as the authority on its state.

    `cut_version` is the last version that removed messages: messages cached before it may be gone.
    `changed_version` is the last version that changed anything other than by adding messages. The messages
    after `cut_after`, up to `cut_through`, are removed, but their rows may not be erased yet.
    `first_user_seq` is the message that gives an untitled session its title.
    """

    id: int
    key: SessionKey
    version: int
    last_seq: int
    message_count: int
    token_total: int
    last_activity: datetime
    deleted_at: datetime | None
    cut_version: int
    changed_version: int
    cut_after: int
    cut_through: int
    first_user_seq: int | None


class Details(Struct, frozen=True):
    """The columns of a session that its head leaves out, and its agent context.

    Metadata that is None was not loaded because it is large. `last_switch` is the number of the last
    handover. It may be above their count: the first agent of a session may be listed, and is not counted.
    """

    title: JsonText | None
    description: JsonText | None
    metadata: JsonText | None
    created_at: datetime
    is_active: bool
    first_user_text: JsonText | None
    current_agent: str
    switch_count: int
    context_metadata: JsonText | None
    context_created_at: datetime
    context_updated_at: datetime
    last_switch: int
    forked_from_id: str | None = None
    forked_from_seq: int | None = None

    @property
    def forked_from(self) -> ForkOrigin | None:
        return fork_origin(self.forked_from_id, self.forked_from_seq)


class SwitchRow(NamedTuple):
    """A handover as stored: the `n`-th of its session. An empty `from_agent` stands for no agent."""

    n: int
    from_agent: str
    to_agent: str
    switched_at: datetime
    reason: JsonText | None
    metadata: JsonText


class ImportMark(Struct, frozen=True):
    """Where a session was imported from, and its version when all of it was stored; None until then."""

    source: str
    whole_version: int | None = None


class ApprovalRow(Struct, frozen=True):
    """An approval as stored."""

    call_id: str
    tool_name: JsonText
    arguments: JsonText
    reason: JsonText | None
    status: ApprovalStatus
    created_at: datetime
    expires_at: datetime | None
    decided_at: datetime | None
    modified_arguments: JsonText | None
    feedback: JsonText | None


class TurnRow(Struct, frozen=True):
    """A turn as stored: the `n`-th of its session.

    `instance` runs it and raises `beat` as a heartbeat. `last_event` is the number of its last event, and
    `text_length` the characters in that event if it is text.
    """

    n: int
    turn_id: str
    status: TurnStatus
    agent: str
    started_at: datetime
    ended_at: datetime | None
    error: JsonText | None
    input_tokens: int
    output_tokens: int
    instance: str
    beat: int
    stop_requested: bool
    last_event: int
    text_length: int

    @property
    def runs(self) -> bool:
        return self.status == "running"


def turn_from(row: TurnRow) -> Turn:
    """The public model of a stored turn."""
    return Turn(
        turn_id=row.turn_id,
        status=row.status,
        agent=row.agent,
        started_at=row.started_at,
        ended_at=row.ended_at,
        error=decode_optional(row.error),
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
    )


class TurnPiece(Struct, frozen=True):
    """The `n`-th event of the `turn_n`-th turn, or the part of a text after its first `offset` characters.

    The `data` of a text is escaped as in a JSON string, without the quotes.
    """

    turn_n: int
    n: int
    kind: str
    offset: int
    data: str


def approval_from(session_id: str, row: ApprovalRow) -> Approval:
    """The public model of a stored approval; `Approval.at` gives its status at a time."""
    return Approval(
        call_id=row.call_id,
        session_id=session_id,
        tool_name=decode(row.tool_name),
        encoded_arguments=msgspec.Raw(row.arguments),
        reason=decode_optional(row.reason),
        status=row.status,
        created_at=row.created_at,
        expires_at=row.expires_at,
        decided_at=row.decided_at,
        encoded_modified_arguments=msgspec.Raw(row.modified_arguments or "null"),
        feedback=decode_optional(row.feedback),
    )


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
    # By position: a look-up by name is slow on SQLite, and a page has fifty rows.
    (_, session_id, title, description, metadata, created_at, last_activity, *rest) = row
    (is_active, deleted_at, version, last_seq, message_count, first_user_text, current_agent, *fork) = rest
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
        forked_from=fork_origin(*fork),
    )


def fork_origin(session_id: str | None, seq: int | None) -> ForkOrigin | None:
    """Where a session was forked from; None for one that was not."""
    return None if session_id is None or seq is None else ForkOrigin(session_id, seq)


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
        from_agent=row["from_agent"] or None,
        to_agent=row["to_agent"],
        switched_at=row["switched_at"],
        reason=decode_optional(row["reason"]),
        encoded_metadata=Raw(row["metadata"]),
    )
