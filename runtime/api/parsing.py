"""Parses the body of a request into the type that its handler takes.

Pure: a large body is parsed in another process (`parser_process`), a small one where it is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NoReturn, Protocol, Self, TypeVar, cast

import msgspec

from runtime.api.problems import HttpError
from runtime.errors import InvalidInput
from runtime.store.validation import invalid_input

T = TypeVar("T")

# The most characters of an integer: Python reads and writes no more.
MAX_DIGITS = 4300
SURROGATE = re.compile("[\ud800-\udfff]")
OUT_OF_RANGE = "Integer value out of range"


class Part(Protocol):
    """A part of a body that no struct describes: it parses itself."""

    @classmethod
    def parse(cls, value: Any) -> Self:
        """The part from its decoded value. Raises TypeError or ValueError, or InvalidInput with the place."""


def parse_body(body: bytes, wanted: type[T]) -> T:
    """A body as its type; its numbers keep their text.

    Raises InvalidInput, which names the place, or HttpError.
    """
    decoder: msgspec.json.Decoder[T] = _decoder(wanted)  # type: ignore[arg-type]
    try:
        return decoder.decode(body)
    except InvalidInput:
        _check_is_json(body)
        raise
    except RecursionError:
        raise InvalidInput("$", "is nested too deep") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # Where any value is allowed msgspec gives no place, or only a part of it.
        if not isinstance(error, msgspec.ValidationError) or str(error).startswith(OUT_OF_RANGE):
            _refuse(body, error)
        _check_is_json(body)
        raise invalid_input(error, "$") from None


@cache
def _decoder(wanted: Any) -> msgspec.json.Decoder[Any]:
    # Raw keeps the text of a number: nothing is rounded, and nothing is slow, as msgspec is with 1e308.
    return msgspec.json.Decoder(
        wanted, dec_hook=lambda kind, value: cast(type[Part], kind).parse(value), float_hook=msgspec.Raw
    )


def _check_is_json(body: bytes) -> None:
    """Raise for a body that is no JSON: that comes before what is wrong in it."""
    parse_body(body, Any)


def _refuse(body: bytes, error: Exception) -> NoReturn:
    """Raise what is wrong with a body that could not be decoded."""
    if isinstance(error, msgspec.ValidationError):
        place = _find(body, lambda value: isinstance(value, _TooLong)) or "$"
        raise InvalidInput(place, f"has an integer of more than {MAX_DIGITS} digits") from None
    if path := _find(body, lambda value: isinstance(value, str) and SURROGATE.search(value) is not None):
        raise InvalidInput(path, "has a lone surrogate, which is not text and cannot be stored") from None
    raise HttpError(400, "invalid_json", f"the body is not JSON: {error}") from None


class _TooLong:
    """An integer that Python does not read."""


def _find(body: bytes, is_wrong: Callable[[Any], bool]) -> str | None:
    """Where a body that Python takes for JSON has the first value, or name, that is wrong."""
    try:
        value = json.loads(
            body.decode(),
            parse_constant=_refuse_constant,
            parse_float=str,
            parse_int=lambda text: _TooLong() if len(text) > MAX_DIGITS else 0,
        )
        return next(_places(value, "$", is_wrong), None)
    except (ValueError, RecursionError):
        return None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _places(value: Any, path: str, is_wrong: Callable[[Any], bool]) -> Iterator[str]:
    if is_wrong(value):
        yield path
    elif isinstance(value, dict):
        for name, field in value.items():
            # A name that is wrong cannot be repeated in the reply, which is UTF-8.
            yield from (path,) if is_wrong(name) else _places(field, f"{path}.{name}", is_wrong)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _places(item, f"{path}[{index}]", is_wrong)
