"""What a caller gives, checked and as the text in which it is stored."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any, ClassVar, Self, get_args

import msgspec

from runtime.errors import InvalidInput
from runtime.models import (
    MAX_KEY,
    MAX_LIMIT,
    MAX_SEQ,
    ApprovalStatus,
    Decision,
    Key,
    Role,
    TurnMessageType,
)
from runtime.store.records import JsonText

# The most lists and objects within each other: Python reads back about twice as many.
MAX_NESTING = 500

_GROUPS = (dict, list, tuple, set, frozenset)

_encode = msgspec.json.Encoder().encode
_FIELD = re.compile("Object (?:missing required|contains unknown) field `(.*)`", re.DOTALL)
_VALUES = {
    "role": get_args(Role),
    "decision": get_args(Decision),
    "status": get_args(ApprovalStatus),
    "type": get_args(TurnMessageType),
}


class JsonValue:
    """A JSON value that is checked, as the text in which it is stored: its numbers as they came."""

    __slots__ = ("text",)
    schema: ClassVar[dict[str, Any]] = {"description": "Any value."}

    def __init__(self, text: JsonText) -> None:
        self.text = text

    @classmethod
    def parse(cls, value: Any) -> Self:
        """The text of a decoded value. Raises ValueError for what cannot be stored."""
        try:
            return cls(json_text(value))
        except InvalidInput as error:
            raise ValueError(error.problems[0].message) from None


class JsonObject(JsonValue):
    """A JSON object."""

    __slots__ = ()
    schema: ClassVar[dict[str, Any]] = {"type": "object"}

    @classmethod
    def parse(cls, value: Any) -> Self:
        """The text of a decoded object. Raises TypeError for another value, and ValueError."""
        if not isinstance(value, dict):
            raise TypeError(f"Expected `object`, got {json_type(value)}")
        return super().parse(value)


_TYPES: dict[type, str] = {
    **{dict: "`object`", list: "`array`", str: "`str`", int: "`int`", bool: "`bool`"},
    **{float: "`float`", msgspec.Raw: "`float`", type(None): "`null`"},
}


def json_type(value: Any) -> str:
    """What a decoded value is, in the words of msgspec."""
    return _TYPES[type(value)]


def invalid_input(error: msgspec.ValidationError, path: str) -> InvalidInput:
    """The error of msgspec as one of ours, its place put under `path`."""
    message, _, place = str(error).partition(" - at `$")
    # A number whose text is kept.
    message = message.replace("got `raw`", "got `float`")
    # msgspec names the object around a field that is missing or unknown; we name the field.
    field = _FIELD.fullmatch(message)
    place = path + place.rstrip("`") + (f".{field[1]}" if field else "")
    if message.startswith(("Invalid enum value", "Invalid value")):
        message += _what_is_right(place)
    elif "matching regex" in message:
        message = "Expected 1 to 255 characters, none of them a control character"
    return InvalidInput(place, message)


def _what_is_right(place: str) -> str:
    """The values that a field of a few may have, which msgspec leaves out."""
    name = re.split(r"\W", place)[-1]
    return f", expected one of {', '.join(_VALUES[name])}" if name in _VALUES else ""


def json_text(value: Any, path: str = "$") -> JsonText:
    """The JSON text of a value. Raises InvalidInput for what JSON or a database has no room for."""
    if isinstance(value, JsonValue):
        return value.text
    try:
        text = _encode(value).decode()
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise InvalidInput(path, f"cannot be stored: {error}") from None
    # What the encoder lets pass can be told from the text, nearly always.
    if "null" in text and not _is_finite(value):
        raise InvalidInput(path, "cannot be stored: a number that is not finite")
    if text.count("[") + text.count("{") > MAX_NESTING and _is_too_deep(value):
        raise InvalidInput(path, f"cannot be stored: nested more than {MAX_NESTING} deep")
    return text


def _is_finite(value: Any) -> bool:
    """Whether it has no NaN and no infinity: they would silently become null."""
    level = [value]
    while level:
        if any(isinstance(part, float) and not math.isfinite(part) for part in level):
            return False
        groups = [part for part in level if isinstance(part, _GROUPS)]
        level = [child for group in groups for child in _children(group)]
    return True


def _is_too_deep(value: Any) -> bool:
    """Whether it is nested so deep that it might not come out again."""
    level, depth = [value] if isinstance(value, _GROUPS) else [], 0
    while level:
        if depth == MAX_NESTING:
            return True
        level = [child for group in level for child in _children(group) if isinstance(child, _GROUPS)]
        depth += 1
    return False


def _children(group: Any) -> Iterable[Any]:
    return group.values() if isinstance(group, dict) else group


def json_list(values: Iterable[object]) -> str:
    """A list as a statement takes it."""
    return _encode(list(values)).decode()


def optional_text(value: Any, path: str) -> JsonText | None:
    """The JSON text of a value; None for None."""
    return None if value is None else json_text(value, path)


def check_key(value: str, path: str) -> str:
    """A key that may name a session, a call or an agent. Raises InvalidInput."""
    # What can be printed has no control characters: nearly every key, told ten times as quickly.
    if isinstance(value, str) and value.isprintable() and 0 < len(value) <= MAX_KEY:
        return value
    try:
        return msgspec.convert(value, Key)
    except msgspec.ValidationError as error:
        raise invalid_input(error, path) from None


def is_key(value: str) -> bool:
    """Whether a text may name a session, a call or an agent."""
    try:
        check_key(value, "")
    except InvalidInput:
        return False
    return True


def check_limit(value: int, path: str) -> None:
    """Raise InvalidInput for what a page cannot have as its length."""
    check_number(value, path, 1, MAX_LIMIT)


def check_seq(value: int | None, path: str) -> None:
    """Raise InvalidInput for what cannot be a sequence number; None is none."""
    if value is not None:
        check_number(value, path, 0, MAX_SEQ)


def check_number(value: float, path: str, least: float, most: float) -> None:
    """Raise InvalidInput for a number that is not within these bounds."""
    if not least <= value <= most:
        raise InvalidInput(path, f"Expected a number from {least} to {most}")
