"""The OpenAPI 3.1 document, from the types that the handlers parse with and answer with."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from types import NoneType
from typing import Any, get_args

import msgspec

from runtime import __version__, errors
from runtime.api.problems import HTTP_CODES, ProblemDetails, status_of
from runtime.api.routes import Route
from runtime.models import ChangedEvent, Key, Message
from runtime.store.messages import MessageInput

NOT_A_WORD = re.compile(r"\W+")
REFERENCE = "#/components/schemas/{name}"

# Named by hand-written references, or by the text of a stream, and so found by no route.
REFERENCED = (Message, MessageInput, ChangedEvent, ProblemDetails)

WRITE_HEADERS = {
    "Idempotency-Key": "1 to 255 visible ASCII characters. A repeat answers as the first request did.",
    "If-Match": "The version that the session must have, in quotes; * for any.",
}
BUFFER_HEADERS = {
    "Prefer": "respond-async: 202 at once, stored soon. wait: the reply comes after the commit."
}


def describe(routes: Iterable[Route]) -> dict[str, Any]:
    """The document, as what JSON is made of."""
    routes = tuple(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    types = [*REFERENCED, *(kind for route in routes for kind in _types(route))]
    _, components = msgspec.json.schema_components(types, ref_template=REFERENCE)
    return {
        "openapi": "3.1.0",
        "info": {"title": "agent-runtime", "version": __version__},
        "paths": paths,
        "components": {"schemas": components},
    }


def _types(route: Route) -> Iterator[Any]:
    yield from _bodies(route)
    yield from (kind for kind in route.replies.values() if kind is not None)


def _bodies(route: Route) -> tuple[Any, ...]:
    """The types that the body may have; none where no body is looked at."""
    body = route.parsed[1]
    if body is Any:
        return route.forms
    return tuple(kind for kind in get_args(body) or (body,) if kind is not NoneType)


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        # A handler may serve two paths; an operation's id is its own.
        "operationId": NOT_A_WORD.sub("_", route.method.lower() + route.path).rstrip("_"),
        "summary": inspect.getdoc(route.handler),
        "tags": [route.handler.__module__.rpartition(".")[2]],
        "parameters": [*_path_parameters(route), *_query_parameters(route), *_header_parameters(route)],
        "responses": {**_failures(route), **_replies(route)},
    }
    if bodies := _bodies(route):
        operation["requestBody"] = {
            "required": NoneType not in get_args(route.parsed[1]),
            "content": {"application/json": {"schema": _any_of([_schema(kind) for kind in bodies])}},
        }
    return operation


def _schema(kind: Any) -> dict[str, Any]:
    (schema,), _ = msgspec.json.schema_components((kind,), ref_template=REFERENCE)
    return schema


def _any_of(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _path_parameters(route: Route) -> Iterator[dict[str, Any]]:
    for name in route.keys:
        yield {"name": name, "in": "path", "required": True, "schema": _schema(Key)}


def _query_parameters(route: Route) -> Iterator[dict[str, Any]]:
    query = route.parsed[0]
    if query is NoneType:
        return
    _, components = msgspec.json.schema_components((query,), ref_template=REFERENCE)
    described = components[query.__name__]
    for name, schema in described["properties"].items():
        required = name in described["required"]
        yield {"name": name, "in": "query", "required": required, "schema": _without_null(schema)}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A query has no null: what may be null in the type may be left out of the query."""
    kept = {name: value for name, value in schema.items() if (name, value) != ("default", None)}
    if "enum" in kept:
        kept["enum"] = [value for value in kept["enum"] if value is not None]
    choices = [choice for choice in kept.pop("anyOf", []) if choice != {"type": "null"}]
    return {**kept, **_any_of(choices)} if choices else kept


def _header_parameters(route: Route) -> Iterator[dict[str, Any]]:
    headers = {**(WRITE_HEADERS if route.writes else {}), **(BUFFER_HEADERS if route.buffers else {})}
    for name, text in headers.items():
        yield {"name": name, "in": "header", "description": text, "schema": {"type": "string"}}


def _replies(route: Route) -> dict[str, Any]:
    return {str(status): _reply(status, kind, route.media_type) for status, kind in route.replies.items()}


def _reply(status: int, kind: Any, media_type: str) -> dict[str, Any]:
    described: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if kind is not None:
        described["content"] = {media_type: {"schema": _schema(kind)}}
    return described


def _failures(route: Route) -> dict[str, Any]:
    """The problems that a request can meet, by status; each is described by its codes."""
    codes: dict[int, list[str]] = {}
    for kind in _errors(route):
        codes.setdefault(status_of(kind), []).append(kind.code)
    if _bodies(route):
        codes.setdefault(400, []).append("invalid_json")
        for status in (413, 415):
            codes.setdefault(status, []).append(HTTP_CODES[status])
    failures = {str(status): _problem(", ".join(codes[status])) for status in sorted(codes)}
    return {**failures, "default": _problem("Any other problem.")}


def _errors(route: Route) -> Iterator[type[errors.AgentRuntimeError]]:
    if "session_id" in route.keys:
        yield errors.SessionNotFound
    yield from route.errors
    if route.keys or _bodies(route) or route.parsed[0] is not NoneType:
        yield errors.InvalidInput
    if route.writes:
        yield from (errors.VersionMismatch, errors.KeyReused, errors.RefusedByDatabase)
        yield from (errors.Overloaded, errors.NotStored, errors.Unconfirmed, errors.ShuttingDown)


def _problem(text: str) -> dict[str, Any]:
    schema = {"$ref": REFERENCE.format(name=ProblemDetails.__name__)}
    return {"description": text, "content": {"application/problem+json": {"schema": schema}}}
