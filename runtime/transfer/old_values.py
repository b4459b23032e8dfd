"""Values of the older service as the texts that are stored: what has no place as it is, is written out."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

from runtime.errors import InvalidInput
from runtime.store.records import JsonText
from runtime.store.validation import MAX_NESTING, json_text

# As requests are decoded: numbers with a fraction keep their text.
_decode = msgspec.json.Decoder(float_hook=msgspec.Raw).decode


def decoded(text: str | None) -> Any:
    """The value of a JSON text; a text that is no JSON stands for itself."""
    if text is None:
        return None
    try:
        return _decode(text)
    except (ValueError, RecursionError):
        # Python's own writes halves of surrogate pairs and NaN, and reads them.
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text


def stored(value: Any) -> tuple[JsonText, bool]:
    """The JSON text of a value, and whether it had to be changed."""
    try:
        return json_text(value), False
    except InvalidInput:
        return json_text(storable(value)), True


def is_object(value: Any) -> bool:
    """Whether a value may be metadata."""
    return isinstance(value, dict)


def storable(value: Any, depth: int = 0) -> Any:
    """A value with everything written out that JSON, Unicode or a reader has no room for.

    Half of a surrogate pair becomes the text of its escape, such as `\\ud83d`; a number that is not finite
    its name; what is nested too deep the text of its JSON.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict | list) and depth >= MAX_NESTING // 2:
        return storable(_text_of(value))
    if isinstance(value, dict):
        return {storable(name): storable(part, depth + 1) for name, part in value.items()}
    if isinstance(value, list):
        return [storable(part, depth + 1) for part in value]
    return value


def _text_of(value: Any) -> str:
    try:
        return json.dumps(value, default=lambda raw: bytes(raw).decode())
    except RecursionError:
        return "nested too deep"
