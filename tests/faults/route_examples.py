"""Requests made from the route table alone: a new route is asked as well, without a word here.

Values are chosen by type, and where a name is that of an id, by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from msgspec import inspect

from runtime.agents.turn_messages import Content
from runtime.api.application import ROUTES
from runtime.api.routes import Route
from runtime.store.messages import MessageBatch

Json = Any
Ids = Mapping[str, str]

MESSAGE = {"role": "user", "content": "hello"}
# How one write is told from another, and from what a client expects to find.
WRITE_HEADERS = ({"If-Match": '"1"'}, {"If-Match": '"{version}"'}, {"If-Match": "*"})


class Example(NamedTuple):
    """A request."""

    route: Route
    method: str
    path: str
    query: dict[str, str]
    body: Json
    headers: dict[str, str]

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.query or ''} {self.body or ''} {self.headers or ''}"


def examples(ids: Ids) -> list[Example]:
    """Requests to every route, about the session, the call and the turn of these ids.

    `ids` has also what a header may name: `version`, `event_id`, and `cursor` of a list.
    """
    return [example for route in ROUTES for example in _of_route(route, ids)]


def _of_route(route: Route, ids: Ids) -> Iterator[Example]:
    path = "/".join(_part(part, ids) for part in route.path.split("/"))
    query_type, body_type = route.parsed
    queries = [_as_query(query) for query in _of_type(query_type, "", ids)]
    bodies = [body for wanted in route.forms or (body_type,) for body in _of_type(wanted, "", ids)]
    for query in queries:
        yield Example(route, route.method, path, query, bodies[0], {})
    for body in bodies[1:]:
        yield Example(route, route.method, path, queries[0], body, {})
    if route.scope is not None:
        # Another's name, and the own one, are refused alike.
        for name in ("victim", "x"):
            yield Example(route, route.method, path, queries[0], bodies[0], {"X-Owner": name})
    for headers in _headers(route, ids):
        yield Example(route, route.method, path, queries[0], bodies[0], headers)
    if route.method == "GET":
        yield Example(route, "HEAD", path, queries[0], None, {})


def _part(part: str, ids: Ids) -> str:
    # A key that nobody has thought of here is a KeyError: it needs an id.
    return {"owner": "victim", **ids}[part[1:-1]] if part.startswith("{") else part


def _headers(route: Route, ids: Ids) -> Iterator[dict[str, str]]:
    if route.writes:
        for headers in WRITE_HEADERS:
            yield {name: text.format(**ids) for name, text in headers.items()}
    if route.buffers:
        yield {"Prefer": "respond-async"}
    if route.media_type == "text/event-stream" and route.method == "GET":
        yield {"Last-Event-ID": ids["event_id"] if "turn_id" in route.keys else "1"}


def _as_query(values: Json) -> dict[str, str]:
    given = dict(values or {})
    members = given.pop("metadata", {})
    query = {name: str(value).lower() if value is True else str(value) for name, value in given.items()}
    return {**query, **{f"metadata.{key}": value for key, value in members.items()}}


def _of_type(wanted: Any, name: str, ids: Ids) -> list[Json]:
    return list(_values(inspect.type_info(wanted), name, ids))


def _values(kind: inspect.Type, name: str, ids: Ids) -> Iterator[Json]:
    match kind:
        case inspect.NoneType():
            yield None
        case inspect.StrType():
            yield ids.get(name, "x")
        case inspect.BoolType():
            yield True
        case inspect.IntType() | inspect.FloatType():
            yield 1
        case inspect.DateTimeType():
            yield "2026-01-01T00:00:00Z"
        case inspect.LiteralType(values=values):
            yield from values
        case inspect.CustomType(cls=part) if issubclass(part, Content):
            yield from ("x", [{"a": 1}])
        case inspect.CustomType(cls=part) if issubclass(part, MessageBatch):
            yield [MESSAGE]
        case inspect.CustomType() | inspect.DictType() | inspect.AnyType():
            yield {"a": 1}
        case inspect.VarTupleType():
            # The parameters metadata.KEY=VALUE.
            yield {"k": "v"}
        case inspect.ListType(item_type=item):
            yield [next(_values(item, name, ids))]
        case inspect.UnionType(types=types):
            for each in sorted(types, key=lambda each: isinstance(each, inspect.NoneType)):
                yield from _values(each, name, ids)
        case inspect.StructType():
            yield from _structs(kind, ids)
        case inspect.Metadata(type=inner):
            yield from _values(inner, name, ids)
        case _:
            raise AssertionError(f"there is no example of {kind}: add one here")


def _structs(kind: inspect.StructType, ids: Ids) -> Iterator[Json]:
    """What must be there, and then each field with each of its values."""
    values = [(field, list(_values(field.type, field.encode_name, ids))) for field in kind.fields]
    tag = {kind.tag_field: kind.tag} if kind.tag_field else {}
    base = {**tag, **{field.encode_name: found[0] for field, found in values if _is_needed(field)}}
    yield base
    for field, found in values:
        for value in found[1:] if field.encode_name in base else found:
            yield {**base, field.encode_name: value}


def _is_needed(field: inspect.Field) -> bool:
    # An id that may be left out names what is asked for all the same.
    return field.required or field.encode_name == "session_id"
