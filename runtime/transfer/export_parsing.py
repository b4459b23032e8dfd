"""Parses the lines of an export into what is stored of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET, Raw, structs

from runtime.errors import InvalidInput
from runtime.models import MAX_SEQ
from runtime.store.export_lines import (
    ExportedApproval,
    ExportedSwitch,
    ExportedTurn,
    ExportLine,
)
from runtime.store.messages import new_message
from runtime.store.records import ApprovalRow, JsonText, SessionKey, SwitchRow, TurnRow, encode_text
from runtime.store.validation import invalid_input, is_key, json_text
from runtime.store.write.commands import ImportSession, NumberedMessage

KINDS = ("session", "switch", "approval", "turn", "message", "end")
INTERRUPTED = encode_text("the turn ran when it was exported; what was said is kept")

_decode_line = msgspec.json.Decoder(ExportLine).decode
# Numbers keep their text.
_decode = msgspec.json.Decoder(float_hook=Raw).decode


def parse_line(line: bytes) -> ExportLine:
    """A line. Raises InvalidInput, which names the place within it."""
    try:
        return _decode_line(line)
    except msgspec.ValidationError as error:
        raise invalid_input(error, "$") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput("$", f"is not JSON: {error}") from None


def kind_of(line: ExportLine) -> str:
    """Which of KINDS a line is, or "header". Raises InvalidInput for a line of several kinds, or of none."""
    found = [name for name in KINDS if getattr(line, name) is not UNSET]
    found += ["header"] if line.format is not UNSET else []
    if len(found) != 1 or (line.context is UNSET) == (found[0] == "session"):
        raise InvalidInput("$", f"Expected one of {', '.join(KINDS)}, and a context beside each session")
    return found[0]


def session_command(line: ExportLine, source: str, owner: str) -> ImportSession:
    """The command that stores a session, as a session of `owner` where that is not empty."""
    session, context = line.session, line.context
    assert session is not UNSET
    assert context is not UNSET
    if session.owner and not is_key(session.owner):
        raise InvalidInput(
            "$.session.owner", "Expected at most 255 characters, none of them a control character"
        )
    if context.current_agent != session.current_agent:
        raise InvalidInput("$.context.current_agent", f"Expected {session.current_agent!r}, as the session's")
    return ImportSession(
        SessionKey(owner or session.owner, session.session_id),
        source=source,
        created_at=session.created_at,
        last_activity=session.last_activity,
        context_created_at=context.created_at,
        context_updated_at=context.updated_at,
        title=_text(session.title, str, "$.session.title"),
        description=_text(session.description, str, "$.session.description"),
        metadata=_object(session.metadata, "$.session.metadata"),
        is_active=session.is_active,
        deleted_at=session.deleted_at,
        agent=session.current_agent,
        switch_count=context.switch_count,
        context_metadata=_object(context.metadata, "$.context.metadata"),
        is_bare=context.is_bare,
        is_whole=False,
        version=session.version,
        last_seq=session.last_seq,
        forked_from=session.forked_from,
    )


Part = SwitchRow | ApprovalRow | TurnRow


def parse_part(line: ExportLine, exported_at: datetime) -> Part:
    """A switch, an approval or a turn as stored. Raises InvalidInput."""
    if line.switch is not UNSET:
        return _switch_row(line.switch)
    if line.approval is not UNSET:
        return _approval_row(line.approval)
    assert line.turn is not UNSET
    return _turn_row(line.turn, exported_at)


def with_parts(command: ImportSession, parts: Sequence[Part]) -> ImportSession:
    """The same with these switches, approvals and turns."""
    approvals = [part for part in parts if isinstance(part, ApprovalRow)]
    turns = [part for part in parts if isinstance(part, TurnRow)]
    return structs.replace(
        command,
        switches=tuple(sorted(part for part in parts if isinstance(part, SwitchRow))),
        approvals=tuple(sorted(approvals, key=lambda each: (each.created_at, each.call_id))),
        turns=tuple(structs.replace(turn, n=n) for n, turn in enumerate(turns, 1)),
    )


def _switch_row(switch: ExportedSwitch) -> SwitchRow:
    """A handover as stored."""
    return SwitchRow(
        switch.id,
        switch.from_agent or "",
        switch.to_agent,
        switch.switched_at,
        _text(switch.reason, str, "$.switch.reason"),
        _object(switch.metadata, "$.switch.metadata"),
    )


def _approval_row(approval: ExportedApproval) -> ApprovalRow:
    """An approval as stored."""
    modified = approval.modified_arguments
    return ApprovalRow(
        call_id=approval.call_id,
        tool_name=_text(approval.tool_name, str, "$.approval.tool_name") or '""',
        arguments=_any(approval.arguments, "$.approval.arguments"),
        reason=_text(approval.reason, str, "$.approval.reason"),
        status=approval.status,
        created_at=approval.created_at,
        expires_at=approval.expires_at,
        decided_at=approval.decided_at,
        modified_arguments=None if modified is UNSET else _any(modified, "$.approval.modified_arguments"),
        feedback=_text(approval.feedback, str, "$.approval.feedback"),
    )


def _turn_row(turn: ExportedTurn, exported_at: datetime) -> TurnRow:
    """A turn as stored, without events and not numbered yet. One that ran is interrupted: nothing runs it."""
    row = TurnRow(
        n=0,
        turn_id=turn.turn_id,
        status=turn.status,
        agent=turn.agent,
        started_at=turn.started_at,
        ended_at=turn.ended_at,
        error=_text(turn.error, str, "$.turn.error"),
        input_tokens=turn.input_tokens,
        output_tokens=turn.output_tokens,
        instance="",
        beat=0,
        stop_requested=False,
        last_event=0,
        text_length=0,
    )
    if turn.status != "running":
        return row
    ended_at = max(exported_at, turn.started_at)
    return structs.replace(row, status="interrupted", ended_at=ended_at, error=INTERRUPTED)


def message_of(encoded: Raw) -> NumberedMessage:
    """A message with its number. Raises InvalidInput."""
    value = _value(encoded, "$.message")
    message = new_message(value, "$.message")
    seq = value.get("seq")
    if type(seq) is not int or not 1 <= seq <= MAX_SEQ:
        raise InvalidInput("$.message.seq", f"Expected a number from 1 to {MAX_SEQ}")
    if message.timestamp is None:
        raise InvalidInput("$.message.timestamp", "Expected the time of the message")
    return NumberedMessage(**structs.asdict(message), seq=seq)


def _value(encoded: Raw, path: str) -> Any:
    try:
        return _decode(encoded)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(path, f"cannot be stored: {error}") from None


def _any(encoded: Raw, path: str) -> JsonText:
    return json_text(_value(encoded, path), path)


def _object(encoded: Raw, path: str) -> JsonText:
    text = _text(encoded, dict, path)
    if text is None:
        raise InvalidInput(path, "Expected `object`, got `null`")
    return text


def _text(encoded: Raw, kind: type, path: str) -> JsonText | None:
    """The JSON text of a value of this kind; None for null."""
    value = _value(encoded, path)
    if value is None:
        return None
    if not isinstance(value, kind):
        raise InvalidInput(path, f"Expected `{'object' if kind is dict else 'str'}` or `null`")
    return json_text(value, path)
