"""Encodes and decodes the replies that are kept under idempotency keys (W12)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import structs

from runtime.models import LEFT_OUT, is_left_out
from runtime.store.messages import MANY_MESSAGES
from runtime.store.records import LARGE_TEXT, JsonText
from runtime.store.write.outcomes import (
    Appended,
    ApprovalDeleted,
    ApprovalWritten,
    ContextWritten,
    Outcome,
    Replaced,
    SessionDeleted,
    SessionWritten,
    Switched,
    Truncated,
    TurnWritten,
    encode_receipts,
    put_receipts,
)

_OUTCOMES: dict[str, type[Outcome]] = {
    kind.__name__: kind
    for kind in (
        SessionWritten,
        SessionDeleted,
        Appended,
        Replaced,
        Truncated,
        Switched,
        ContextWritten,
        ApprovalWritten,
        ApprovalDeleted,
        TurnWritten,
    )
}

_NOTHING = msgspec.Raw(b"null")
# Of a large reply: the part, and its fields that are left out, with their substitutes (R6). A repeat is
# answered with the part as stored by then. The first field is marked as left out when it is decoded.
_LARGE_PARTS: dict[type[Outcome], tuple[str, dict[str, Any]]] = {
    SessionWritten: ("session", {"encoded_metadata": _NOTHING, "title": None, "description": None}),
    ContextWritten: ("context", {"encoded_metadata": _NOTHING}),
    ApprovalWritten: (
        "approval",
        {
            "encoded_arguments": _NOTHING,
            "encoded_modified_arguments": _NOTHING,
            "tool_name": "",
            "reason": None,
            "feedback": None,
        },
    ),
}
# Precedes the kind of an outcome whose large part is left out.
_LEFT_OUT = "large:"


def encode_reply(outcome: Outcome) -> JsonText:
    """An outcome as the JSON that is kept under an idempotency key."""
    kind = type(outcome).__name__
    if isinstance(outcome, TurnWritten):
        # A repeat reads the turn's events from the database.
        outcome = structs.replace(outcome, beginning=())
    if isinstance(outcome, Appended | Replaced) and len(outcome.messages) > MANY_MESSAGES:
        encoded = msgspec.json.encode((kind, structs.replace(outcome, messages=[])))
        return put_receipts(encoded, encode_receipts(outcome.messages)).decode()
    if type(outcome) in _LARGE_PARTS:
        name, nothing = _LARGE_PARTS[type(outcome)]
        part = getattr(outcome, name)
        if _is_large([getattr(part, field) for field in nothing]):
            kind, outcome = _LEFT_OUT + kind, _replace(outcome, name, nothing)
    return msgspec.json.encode((kind, outcome)).decode()


def _is_large(values: Sequence[str | msgspec.Raw | None]) -> bool:
    """Whether the fields of a part are too large to keep, or one is left out already."""
    raws = [value for value in values if isinstance(value, msgspec.Raw)]
    size = sum(
        [len(value) if isinstance(value, str) else len(memoryview(value)) for value in values if value]
    )
    return size > LARGE_TEXT or any(map(is_left_out, raws))


def _replace(outcome: Outcome, name: str, fields: dict[str, Any]) -> Outcome:
    part: Any = structs.replace(getattr(outcome, name), **fields)
    replaced: Outcome = structs.replace(outcome, **{name: part})
    return replaced


def decode_reply(reply: JsonText) -> Outcome:
    """The outcome of a kept reply."""
    kind, encoded = msgspec.json.decode(reply, type=tuple[str, msgspec.Raw])
    outcome = msgspec.json.decode(encoded, type=_OUTCOMES[kind.removeprefix(_LEFT_OUT)])
    if kind.startswith(_LEFT_OUT):
        name, nothing = _LARGE_PARTS[type(outcome)]
        return _replace(outcome, name, {next(iter(nothing)): LEFT_OUT})
    return outcome
