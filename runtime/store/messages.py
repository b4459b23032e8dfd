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
# What a message that waits holds in memory beside its texts, in bytes (W9).
MESSAGE_OVERHEAD = 250
# How much smaller an ASCII text is in memory since Python 3.12; others are smaller by twice as much.
_SHRUNK = 49 - getsizeof("")
# More messages than this are processed in portions or in a thread: they take milliseconds.
MANY_MESSAGES = 2000


class NewMessage(Struct, frozen=True, gc=False):
    """A message to store. `title` is what it would be called by, `size` its texts in bytes."""

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
    """A message as a client sends it. Other fields are kept, but for `seq`, which the server gives."""

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
# Sent as null these are not as if they were not sent: they are kept among the fields that we do not know.
_NULLABLE = frozenset({"name", "tool_call_id", "tool_calls", "token_count", "metadata"})


# What chat-completion APIs do not know of a message.
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
        """Parse the value of a field `messages`. Raises TypeError for what is no list, and InvalidInput."""
        if not isinstance(value, list):
            raise TypeError(f"Expected `array`, got {json_type(value)}")
        return cls(new_messages(value, "$.messages"))


# Messages as a caller gives them: decoded from JSON, or parsed already.
Messages = Sequence[MessageDict | Mapping[str, Any]] | MessageBatch


def new_messages(values: Messages, path: str = "$") -> tuple[NewMessage, ...]:
    """Parse messages as they came, decoded from JSON, unless they are parsed already.

    Raises InvalidInput with the place under `path`, such as `$[3].role`.
    """
    if isinstance(values, MessageBatch):
        return tuple(values.items)
    return tuple([new_message(value, f"{path}[{index}]") for index, value in enumerate(values)])


def new_message(value: Any, path: str = "$") -> NewMessage:
    """Parse a message as it came, decoded from JSON. Raises InvalidInput with the place under `path`."""
    try:
        fields = msgspec.convert(value, MessageInput)
    except msgspec.ValidationError as error:
        raise invalid_input(error, path) from None
    except UnicodeEncodeError as error:
        # Half of a surrogate pair in the name of a field.
        raise InvalidInput(path, f"cannot be stored: {error}") from None
    content = json_text(fields.content, path)
    title = _title(fields.content) if fields.role == "user" else None
    if _PLAIN.issuperset(value):
        # Most messages are no more than this, and every one passes here.
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
    """The bytes of a text in memory, as Python 3.11 has it.

    The size of a message is part of its request's fingerprint (W12): it is the same on every Python.
    """
    if text is None or not _SHRUNK:
        return getsizeof(text)
    return getsizeof(text) + (_SHRUNK if text.isascii() else 2 * _SHRUNK)


def _as_utc(time: datetime, path: str) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise InvalidInput(path, "Expected a time between the years 1 and 9999 of UTC") from None


def _title(content: str | list[Any] | None) -> JsonText | None:
    """The first line that says something: what a session is called until somebody names it."""
    for text in texts_of(content):
        if line := text[: 10 * TITLE_LENGTH].lstrip().partition("\n")[0].rstrip():
            return encode_text(line[:TITLE_LENGTH])
    return None


def texts_of(content: Any) -> list[str]:
    """The text that a content is, or those of its parts."""
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, list) else []
    texts = (part.get("text") for part in parts if isinstance(part, dict))
    return [text for text in texts if isinstance(text, str)]


def rfc3339(time: datetime) -> str:
    """A UTC time as the API writes it: without a fraction where there is none."""
    return _encode(time).decode()[1:-1]


def encode_message(row: MessageRow) -> bytes:
    """The JSON of a stored message, as every reader gets it."""
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
        # Python may keep four bytes for each character of a text, and would copy all of it once more.
        return b"".join([part.encode() for part in parts])
    return "".join(parts).encode()


class _Nulls(Struct):
    """Of the fields that we do not know, those that are null though we know them: others are passed over."""

    token_count: msgspec.Raw | UnsetType = UNSET
    metadata: msgspec.Raw | UnsetType = UNSET


def encode_chat_message(row: MessageRow) -> bytes:
    """A message in the form that chat-completion APIs take: what we added to it left out."""
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
