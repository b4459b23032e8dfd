"""Finds the line of a value in the text of a TOML document: tomllib gives no positions."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left
from typing import Any

# The way to a value from the top of the document: ("agents", "coder", "tools", 0).
Place = tuple[str | int, ...]


def line_of(text: str, place: Place) -> int:
    """The line, from 1, on which the value at a place begins, or the nearest table or list around it.

    The text must parse. The value begins after the longest part of the text that parses without having it.
    """
    lines = text.split("\n")
    document = tomllib.loads(text)
    while not _has(document, place):
        place = place[:-1]
    end = bisect_left(range(len(lines)), True, key=lambda count: _has(_beginning(lines, count)[0], place))
    return _beginning(lines, end - 1)[1] + 1


def _beginning(lines: list[str], most: int) -> tuple[dict[str, Any], int]:
    """The first lines as a document, and how many they are: at most so many, and no value cut in two."""
    for count in range(most, 0, -1):
        try:
            return tomllib.loads("\n".join(lines[:count]) + "\n"), count
        except tomllib.TOMLDecodeError:
            continue
    return {}, 0


def _has(value: Any, place: Place) -> bool:
    try:
        for part in place:
            value = value[part]
    except (KeyError, IndexError, TypeError):
        return False
    return True


def dotted(place: Place) -> str:
    """The place as TOML would write it, with the numbers of lists in brackets: agents.coder.tools[0]."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{_key(part)}" for part in place]
    return "".join(parts).removeprefix(".")


def _key(part: str) -> str:
    return part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else repr(part)
