"""What a caller gives, checked and as the text in which it is stored."""

from __future__ import annotations

from typing import Any

import msgspec

from runtime.errors import InvalidInput
from runtime.models import Key
from runtime.store.commands import JsonText
from runtime.store.messages import invalid_input, json_text

text = json_text


def optional_text(value: Any, path: str) -> JsonText | None:
    """The JSON text of a value; None for None."""
    return None if value is None else json_text(value, path)


def check_key(value: str, path: str) -> str:
    """A key that may name a session, a call or an agent. Raises InvalidInput."""
    try:
        return msgspec.convert(value, Key)
    except msgspec.ValidationError as error:
        raise invalid_input(error, path) from None


def check_number(value: float, path: str, least: float, most: float) -> None:
    """Raise InvalidInput for a number that is not within these bounds."""
    if not least <= value <= most:
        raise InvalidInput(path, f"Expected a number from {least} to {most}")
