"""Labels: what lists of sessions are filtered by, as names and values whose order is that of their bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

from runtime.store.records import JsonText, encode_text

AGENT, CREATED_AT, IS_ACTIVE = "agent", "created_at", "is_active"
# Precedes the JSON text of a member's name. No other label's name is above it.
MEMBER = "metadata"
# The members of a session's metadata that have labels: the first ones that are no list and no object.
MAX_MEMBERS = 64
# A longer name or value has its hash as its label.
MAX_LENGTH = 128

Label = tuple[str, str]

_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def time_label(time: datetime) -> str:
    """The value of a time, in UTC."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")


def active_label(is_active: bool) -> str:
    """The value of `is_active`."""
    return "true" if is_active else "false"


def member_name(key: str) -> str:
    """The name of the label of a member."""
    return MEMBER + member_value(encode_text(key))


def member_value(text: JsonText) -> str:
    """The value of the label of a member that has this JSON text."""
    if len(text) <= MAX_LENGTH:
        return text
    # No JSON text begins with this sign.
    return "#" + hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def labels_of(agent: str, created_at: datetime, is_active: bool, metadata: JsonText) -> list[Label]:
    """All labels of a session."""
    return [
        (AGENT, agent),
        (CREATED_AT, time_label(created_at)),
        (IS_ACTIVE, active_label(is_active)),
        *member_labels(metadata),
    ]


def member_labels(metadata: JsonText) -> Iterator[Label]:
    """The labels of the members of metadata."""
    count = 0
    for key, raw in _decode_members(metadata).items() if metadata != "{}" else ():
        text = bytes(raw).decode()
        if text[0] in "[{":
            continue
        if text[0] == '"':
            # One text for each string, however it was escaped.
            text = encode_text(msgspec.json.decode(raw))
        yield member_name(key), member_value(text)
        count += 1
        if count == MAX_MEMBERS:
            return
