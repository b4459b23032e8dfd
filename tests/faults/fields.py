"""Bodies made from the types that the handlers parse with: every field that takes a text gets one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random
from types import NoneType
from typing import Any, get_args

import msgspec
from msgspec import inspect

from runtime.agents.turn_messages import Content
from runtime.api.routes import Route
from runtime.store.messages import MessageBatch, MessageInput
from runtime.store.validation import JsonValue
from tests.faults.corpus import value_around

# The parts of bodies that parse themselves, and what each is given: a kind stands before its base.
PARTS: dict[type, Any] = {
    Content: str | list[dict[str, Any]],
    MessageBatch: list[MessageInput],
    JsonValue: Any,
}


def bodies_of(route: Route) -> tuple[Any, ...]:
    """The types that the body of a request may have."""
    body = route.parsed[1]
    if route.forms:
        return route.forms
    return tuple(kind for kind in get_args(body) or (body,) if kind is not NoneType)


class Filler:
    """Fills types with one text after the other; fields named in `keep` get what stands there instead.

    `texts` and `values` are those that were filled in.
    """

    def __init__(self, texts: Iterator[str], chance: Random, keep: Mapping[str, Any]) -> None:
        self._source = texts
        self._chance = chance
        self._keep = keep
        self.texts: list[str] = []
        self.values: list[Any] = []

    def _text(self) -> str:
        self.texts.append(next(self._source))
        return self.texts[-1]

    def fill(self, kind: Any) -> Any:
        """A value of this type, as JSON has it."""
        return self._fill(inspect.type_info(kind))

    def _fill(self, info: Any) -> Any:
        match info:
            case inspect.CustomType(cls=kind):
                return self.fill(next(given for part, given in PARTS.items() if issubclass(kind, part)))
            case inspect.Metadata(type=inner):
                return self._fill(inner)
            case inspect.StructType():
                return self._fill_struct(info)
            case inspect.UnionType(types=types):
                return self._fill(
                    self._chance.choice([t for t in types if not isinstance(t, inspect.NoneType)])
                )
            case inspect.ListType(item_type=item):
                return [self._fill(item) for _ in range(2)]
            case inspect.DictType() | inspect.AnyType():
                self.values.append(value_around(self._text(), self._chance.randrange(300)))
                return self.values[-1]
            case inspect.StrType():
                return self._text()
            case inspect.LiteralType(values=values):
                return self._chance.choice(values)
            case inspect.DateTimeType():
                return "2026-01-02T03:04:05.123456Z"
            case inspect.BoolType():
                return True
            case inspect.IntType() | inspect.FloatType():
                return 7
        raise AssertionError(f"with what is {info} to be filled?")

    def _fill_struct(self, info: inspect.StructType) -> dict[str, Any]:
        filled = {
            field.encode_name: self._keep[field.encode_name]
            if field.encode_name in self._keep
            else self._fill(field.type)
            for field in info.fields
        }
        if info.tag is not None:
            filled[info.tag_field] = info.tag  # type: ignore[index]
        if info.cls is MessageInput:
            # A message is kept with the fields that no type names.
            name = "x" + next(self._source)
            self.texts.append(name)
            filled[name] = self._text()
        return {name: value for name, value in filled.items() if value is not msgspec.UNSET}


def strings_in(value: Any) -> Iterator[str]:
    """Every text in a JSON value, names too."""
    for part in parts_of(value):
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict):
            yield from part


def parts_of(value: Any) -> Iterator[Any]:
    """A JSON value and every value within it."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        yield part
        if isinstance(part, dict):
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
