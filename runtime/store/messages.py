"""Messages: parsed from what a client sends, encoded for what a reader gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from sys import getsizeof
from typing import Any, ClassVar, Self

import msgspec
from msgspec import UNSET, Struct, UnsetType

from runtime.errors import InvalidInput
from runtime.models import MessageDict, Metadata, Role, Time, TokenCount
from runtime.store.records import LARGE_TEXT, JsonText, MessageRow, encode_text
from runtime.store.validation import invalid_input, json_text, json_type

TITLE_LENGTH = 80
# Bytes of a pending message in memory, beside its texts (W9).
MESSAGE_OVERHEAD = 250
# How much smaller an ASCII text is in memory since Python 3.12; others are smaller by twice as much.
_SHRUNK = 49 - getsizeof("")
# More messages than this are processed in portions or in a thread: they take milliseconds.
MANY_MESSAGES = 2000


class NewMessage(Struct, frozen=True, gc=False):
    """A message to store. `title` is the title it would give its session, `size` its bytes in memory."""

    role: Role
    content: JsonText
    timestamp: datetime | None = None
    name: JsonText | None = None
    tool_call_id: JsonText | None = None
    tool_calls: JsonText | None = None
    token_count: int | None = None
    metadata: JsonText | None = None
    extra: JsonText | None = None
    title: JsonText | None = None
    size: int = 0


class MessageInput(Struct, frozen=True):
    """A message as a client sends it. Other fields are kept, except `seq`, which the server assigns."""

    role: Role
    content: str | list[Any] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[Any] | None = None
    token_count: TokenCount | None = None
    metadata: Metadata | None = None
    timestamp: Time | None = None


_KNOWN = frozenset({*MessageInput.__struct_fields__, "seq"})
_PLAIN = frozenset({"role", "content"})
# Null differs from absent in these fields: a null is kept in `extra`, with the unknown fields.
_NULLABLE = frozenset({"name", "tool_call_id", "tool_calls", "token_count", "metadata"})
# Fields that chat-completion APIs do not know.
_OURS = frozenset({"token_count", "metadata"})

_encode = msgspec.json.Encoder().encode


class MessageBatch:
    """The messages of a request, parsed."""

    __slots__ = ("items",)
    schema: ClassVar[dict[str, Any]] = {
        "type": "array",
        "items": {"$ref": "#/components/schemas/MessageInput"},
    }

    def __init__(self, items: Sequence[NewMessage]) -> None:
        self.items = items

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Parse the value of a field `messages`. Raises InvalidInput, and TypeError if it is no list."""
        if not isinstance(value, list):
            raise TypeError(f"Expected `array`, got {json_type(value)}")
        return cls(new_messages(value, "$.messages"))


# Messages as a caller gives them: decoded from JSON, or parsed already.
Messages = Sequence[MessageDict | Mapping[str, Any]] | MessageBatch


def new_messages(values: Messages, path: str = "$") -> tuple[NewMessage, ...]:
    """Parse messages, decoded from JSON, unless they are parsed already.

    Raises InvalidInput with a place under `path`, such as `$[3].role`.
    """
    if isinstance(values, MessageBatch):
        return tuple(values.items)
    return tuple([new_message(value, f"{path}[{index}]") for index, value in enumerate(values)])


def new_message(value: Any, path: str = "$") -> NewMessage:
    """Parse a message, decoded from JSON. Raises InvalidInput with a place under `path`."""
    try:
        fields = msgspec.convert(value, MessageInput)
    except msgspec.ValidationError as error:
        raise invalid_input(error, path) from None
    except UnicodeEncodeError as error:
        # A lone surrogate in the name of a field.
        raise InvalidInput(path, f"cannot be stored: {error}") from None
    content = json_text(fields.content, path)
    title = _title(fields.content) if fields.role == "user" else None
    if _PLAIN.issuperset(value):
        # The fast path: most messages have only these fields.
        return NewMessage(fields.role, content, title=title, size=MESSAGE_OVERHEAD + _size(content))
    extra = {
        name: part
        for name, part in value.items()
        if name not in _KNOWN or (part is None and name in _NULLABLE)
    }
    name, tool_call_id, tool_calls, metadata, others = (
        None if part is None else json_text(part, path)
        for part in (fields.name, fields.tool_call_id, fields.tool_calls, fields.metadata, extra or None)
    )
    return NewMessage(
        role=fields.role,
        content=content,
        timestamp=None if fields.timestamp is None else _as_utc(fields.timestamp, f"{path}.timestamp"),
        name=name,
        tool_call_id=tool_call_id,
        tool_calls=tool_calls,
        token_count=fields.token_count,
        metadata=metadata,
        extra=others,
        title=title,
        size=MESSAGE_OVERHEAD + sum(map(_size, (content, name, tool_call_id, tool_calls, metadata, others))),
    )


def _size(text: JsonText | None) -> int:
    """The bytes of a text in memory on Python 3.11.

    The size of a message is part of its request's fingerprint (W12), so it is the same on every Python.
    """
    if text is None or not _SHRUNK:
        return getsizeof(text)
    return getsizeof(text) + (_SHRUNK if text.isascii() else 2 * _SHRUNK)


def _title(content: str | list[Any] | None) -> JsonText | None:
    """The first line that is not empty: the title of a session that is given no other."""
    for text in texts_of(content):
        if line := text[: 10 * TITLE_LENGTH].lstrip().partition("\n")[0].rstrip():
            return encode_text(line[:TITLE_LENGTH])
    return None


def _as_utc(time: datetime, path: str) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise InvalidInput(path, "Expected a time between the years 1 and 9999 of UTC") from None


def texts_of(content: Any) -> list[str]:
    """The texts of a content: itself, or those of its parts."""
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, list) else []
    texts = (part.get("text") for part in parts if isinstance(part, dict))
    return [text for text in texts if isinstance(text, str)]


def rfc3339(time: datetime) -> str:
    """A UTC time as the API writes it, without a fraction if it is zero."""
    return _encode(time).decode()[1:-1]


def encode_message(row: MessageRow) -> bytes:
    """The JSON of a stored message."""
    seq, role, content, timestamp, name, tool_call_id, tool_calls, token_count, metadata, extra = row
    parts = [f'{{"seq":{seq},"role":"{role}","content":', content, f',"timestamp":"{rfc3339(timestamp)}"']
    if name is not None:
        parts += (',"name":', name)
    if tool_call_id is not None:
        parts += (',"tool_call_id":', tool_call_id)
    if tool_calls is not None:
        parts += (',"tool_calls":', tool_calls)
    if token_count is not None:
        parts.append(f',"token_count":{token_count}')
    if metadata is not None:
        parts += (',"metadata":', metadata)
    if extra is not None:
        parts += (",", extra[1:-1])
    parts.append("}")
    return _join(parts)


def _join(parts: Sequence[str]) -> bytes:
    if max(map(len, parts)) > LARGE_TEXT:
        # Joined as texts they would be copied once more, at up to four bytes a character.
        return b"".join([part.encode() for part in parts])
    return "".join(parts).encode()


class _Nulls(Struct):
    """The fields of `_OURS` that were sent as null: they are kept in `extra`."""

    token_count: msgspec.Raw | UnsetType = UNSET
    metadata: msgspec.Raw | UnsetType = UNSET


def encode_chat_message(row: MessageRow) -> bytes:
    """The JSON of a message in chat-completion form: without the fields of `_OURS`, `seq` and `timestamp`."""
    parts = [f'{{"role":"{row.role}","content":', row.content]
    for name, text in (
        ("name", row.name),
        ("tool_calls", row.tool_calls),
        ("tool_call_id", row.tool_call_id),
    ):
        if text is not None:
            parts += (f',"{name}":', text)
    extra = row.extra
    if extra is not None and msgspec.json.decode(extra, type=_Nulls) != _Nulls():
        others = msgspec.json.decode(extra, type=dict[str, msgspec.Raw])
        kept = {name: part for name, part in others.items() if name not in _OURS}
        extra = _encode(kept).decode() if kept else None
    if extra is not None:
        parts += (",", extra[1:-1])
    parts.append("}")
    return _join(parts)
