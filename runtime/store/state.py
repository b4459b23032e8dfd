"""What is known of a session while it is written: values as they are stored."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from runtime.models import Approval, ApprovalStatus, Turn, TurnStatus, decode_json
from runtime.store.commands import JsonText, SessionKey

# Texts of more bytes than this are kept under no idempotency key, and pass through no batch that leaves them
# as they are.
LARGE_TEXT = 64 * 1024
# The columns of a message row: session_db_id, then those of `encode_message`.
MessageColumns = tuple[Any, ...]

decode = decode_json
_encode = msgspec.json.Encoder().encode


def decode_optional(text: JsonText | None) -> Any:
    """The value of a JSON text; None where there is no text."""
    return None if text is None else decode(text)


def bytes_of(*texts: JsonText | None) -> int:
    """How many bytes texts have as UTF-8: what pages are bounded by."""
    return sum([len(text) if text.isascii() else len(text.encode()) for text in texts if text is not None])


def encode_text(value: Any) -> JsonText:
    """The JSON text of a value that is known to have one."""
    return _encode(value).decode()


class Head(Struct, frozen=True):
    """Where a session stands: the small row that is the lock and the authority.

    `cut_version` is the version that last took messages away: what a cache holds from before it may
    be gone. `changed_version` is the one that last changed anything but added messages. The messages after
    `cut_after`, up to `cut_through`, are taken away, though their rows may be there until they are erased.
    `first_user_seq` is the message that an untitled session is called after.
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
    """What a head leaves out of a session, and its agent context.

    Metadata that is None is large, and was not loaded.
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


class ApprovalRow(Struct, frozen=True):
    """An approval as it is stored."""

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
    """A turn as it is stored: the `n`-th of its session.

    `instance` runs it and gives signs of life, counted by `beat`.
    `last_event` and `text_length` say where its events end: the number of the last one, and the
    characters in it if it is text.
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
    """What callers see of a stored turn."""
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
    """A part of the events of the `turn_n`-th turn: the whole `n`-th event, or, of a text, what follows
    its first `offset` characters. `data` of a text is what stands between the quotes of a JSON string."""

    turn_n: int
    n: int
    kind: str
    offset: int
    data: str


def approval_from(session_id: str, row: ApprovalRow) -> Approval:
    """What callers see of a stored approval; `Approval.at` tells whether it has expired."""
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
