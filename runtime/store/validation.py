"""Validates input and converts it to the JSON text that is stored."""

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

# The deepest nesting of lists and objects. Python can decode about twice as deep.
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
    """A validated JSON value as the text that is stored; numbers keep their digits."""

    __slots__ = ("text",)
    schema: ClassVar[dict[str, Any]] = {"description": "Any value."}

    def __init__(self, text: JsonText) -> None:
        self.text = text

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Convert a decoded value. Raises ValueError if it cannot be stored."""
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
        """Convert a decoded object. Raises TypeError for another value, ValueError if it cannot be stored."""
        if not isinstance(value, dict):
            raise TypeError(f"Expected `object`, got {json_type(value)}")
        return super().parse(value)


_TYPES: dict[type, str] = {
    **{dict: "`object`", list: "`array`", str: "`str`", int: "`int`", bool: "`bool`"},
    **{float: "`float`", msgspec.Raw: "`float`", type(None): "`null`"},
}


def json_type(value: Any) -> str:
    """The JSON type of a decoded value, as msgspec names it."""
    return _TYPES[type(value)]


def invalid_input(error: msgspec.ValidationError, path: str) -> InvalidInput:
    """An InvalidInput for an error of msgspec, with its place under `path`."""
    message, _, place = str(error).partition(" - at `$")
    # A number is decoded as its text.
    message = message.replace("got `raw`", "got `float`")
    # msgspec gives the path of the object that lacks or has the field; the field itself is clearer.
    field = _FIELD.fullmatch(message)
    place = path + place.rstrip("`") + (f".{field[1]}" if field else "")
    if message.startswith(("Invalid enum value", "Invalid value")):
        name = re.split(r"\W", place)[-1]
        if name in _VALUES:
            message += f", expected one of {', '.join(_VALUES[name])}"
    elif message.startswith("Invalid RFC3339"):
        message += ", expected one such as 2026-01-31T12:00:00Z"
    elif "matching regex" in message:
        message = "Expected 1 to 255 characters, none of them a control character"
    return InvalidInput(place, message)


def json_text(value: Any, path: str = "$") -> JsonText:
    """The JSON text of a value. Raises InvalidInput if JSON or a database cannot hold it."""
    if isinstance(value, JsonValue):
        return value.text
    try:
        text = _encode(value).decode()
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise InvalidInput(path, f"cannot be stored: {error}") from None
    # Cheap checks of the text decide whether the value has to be searched.
    if "null" in text and not _is_finite(value):
        raise InvalidInput(path, "cannot be stored: a number that is not finite")
    if text.count("[") + text.count("{") > MAX_NESTING and _is_too_deep(value):
        raise InvalidInput(path, f"cannot be stored: nested more than {MAX_NESTING} deep")
    return text


def _is_finite(value: Any) -> bool:
    """Whether a value has no NaN and no infinity, which would become null."""
    level = [value]
    while level:
        if any(isinstance(part, float) and not math.isfinite(part) for part in level):
            return False
        groups = [part for part in level if isinstance(part, _GROUPS)]
        level = [child for group in groups for child in _children(group)]
    return True


def _is_too_deep(value: Any) -> bool:
    """Whether a value is nested too deep to be decoded again."""
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
    """A JSON array, as statements take lists."""
    return _encode(list(values)).decode()


def optional_text(value: Any, path: str) -> JsonText | None:
    """The JSON text of a value; None for None."""
    return None if value is None else json_text(value, path)


def check_key(value: str, path: str) -> str:
    """Return a key for a session, a call or an agent if it is valid. Raises InvalidInput."""
    # The fast path: a printable text has no control characters.
    if isinstance(value, str) and value.isprintable() and 0 < len(value) <= MAX_KEY:
        return value
    try:
        return msgspec.convert(value, Key)
    except msgspec.ValidationError as error:
        raise invalid_input(error, path) from None


def is_key(value: str) -> bool:
    """Whether a text is a valid key for a session, a call or an agent."""
    try:
        check_key(value, "")
    except InvalidInput:
        return False
    return True


def check_limit(value: int, path: str) -> None:
    """Raise InvalidInput unless this is a valid length of a page."""
    check_number(value, path, 1, MAX_LIMIT)


def check_seq(value: int | None, path: str) -> None:
    """Raise InvalidInput unless this is a valid sequence number or None."""
    if value is not None:
        check_number(value, path, 0, MAX_SEQ)


def check_number(value: float, path: str, least: float, most: float) -> None:
    """Raise InvalidInput for a number outside of these bounds."""
    if not least <= value <= most:
        raise InvalidInput(path, f"Expected a number from {least} to {most}")
