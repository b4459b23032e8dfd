"""The replies of the OpenAPI document: what each status carries, as body and as headers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from http import HTTPStatus
from types import NoneType
from typing import Any, cast

import msgspec

from runtime import errors
from runtime.api.problems import HTTP_CODES, ProblemDetails, status_of
from runtime.api.responses import AcceptedReply
from runtime.api.routes import EVENT_STREAM, Route
from runtime.models import Session

REFERENCE = "#/components/schemas/{name}"


def _header(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "required": True, "schema": schema}


REQUEST_ID = {"type": "string", "pattern": r"^[A-Za-z0-9._:/+=@-]{1,128}$"}
SECONDS = {"type": "integer", "minimum": 1}
VERSION = {"type": "string", "pattern": r'^"(0|[1-9][0-9]*)"$'}
CHALLENGE = {"type": "string", "pattern": "^Bearer "}

ALWAYS = {
    "X-Request-ID": _header("The id of the request: the client's, when it sent a sane one.", REQUEST_ID)
}
LATER = {"Retry-After": _header("Seconds after which to try again.", SECONDS)}
PROVE = {"WWW-Authenticate": _header("How to authenticate (RFC 6750).", CHALLENGE)}
PROBLEM_HEADERS = {
    401: PROVE,
    403: PROVE,
    412: {"ETag": _header("The version that the session has.", VERSION)},
    429: LATER,
    503: LATER,
}

# What marks some replies of a kind, and not all.
REPLAYED = {
    "description": "The first request under this Idempotency-Key was answered like this.",
    "schema": {"const": "true"},
}
PREFERENCE = {
    "description": "The preference that was followed.",
    "schema": {"enum": ["wait", "respond-async"]},
}


def schema_of(kind: Any) -> dict[str, Any]:
    """The schema of a type; that of a struct is a reference."""
    return schemas_of((kind,))[0][0]


def schemas_of(kinds: Iterable[Any]) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
    """The schemas of types, and the components that they refer to."""
    return msgspec.json.schema_components(
        kinds, schema_hook=lambda part: cast(Any, part).schema, ref_template=REFERENCE
    )


def describe_reply(route: Route, status: int) -> dict[str, Any]:
    """The reply of a route that succeeds, or with a status that the route declares."""
    kind = route.replies[status]
    described: dict[str, Any] = {
        "description": HTTPStatus(status).phrase,
        "headers": {**ALWAYS, **dict(_headers(route, status))},
    }
    if kind is not None:
        described["content"] = {route.media_type: {"schema": schema_of(kind)}}
    return described


def _headers(route: Route, status: int) -> Iterator[tuple[str, dict[str, Any]]]:
    kind = route.replies[status]
    if _names_version(route, kind):
        yield "ETag", _header("The version of the session.", VERSION)
    if kind is Session and status == 201:
        yield (
            "Location",
            _header("Where the session is found.", {"type": "string", "format": "uri-reference"}),
        )
    if route.writes:
        yield "Idempotent-Replayed", REPLAYED
    if route.buffers:
        yield "Preference-Applied", PREFERENCE
    if route.media_type == EVENT_STREAM and route.writes:
        yield "X-Turn-ID", _header("The id of the turn.", {"type": "string", "format": "uuid"})
    if status == 503:
        yield from LATER.items()


def _names_version(route: Route, kind: Any) -> bool:
    """A buffered write has no version yet, and a stream that is only read outlives its own, or names it."""
    if kind is AcceptedReply or (route.media_type != "application/json" and not route.writes):
        return False
    return route.writes or "session_id" in route.keys


def describe_failures(route: Route, *, has_body: bool) -> dict[str, Any]:
    """The problems that a request can meet, by status; each is described by its codes."""
    codes: dict[int, list[str]] = {}
    for kind in _errors(route, has_body=has_body):
        found = codes.setdefault(status_of(kind), [])
        if kind.code not in found:
            found.append(kind.code)
    if has_body:
        codes[400] = ["invalid_json", "invalid_body"]
        codes[408] = ["request_timeout"]
        for status in (413, 415):
            codes[status] = [HTTP_CODES[status]]
    return {str(status): _problem(status, codes[status]) for status in sorted(codes)}


def _errors(route: Route, *, has_body: bool) -> Iterator[type[errors.AgentRuntimeError]]:
    if route.scope is not None:
        yield from (errors.Unauthorized, errors.Forbidden, errors.TooManyRequests)
        yield from (errors.IssuerUnavailable, errors.DatabaseUnavailable, errors.DatabaseDamaged)
    if "session_id" in route.keys:
        yield errors.SessionNotFound
    yield from route.errors
    # Each route that needs a scope takes X-Owner.
    if route.scope is not None or route.keys or has_body or route.parsed[0] is not NoneType:
        yield errors.InvalidInput
    if route.writes:
        yield from (errors.VersionMismatch, errors.KeyReused, errors.RefusedByDatabase)
        yield from (errors.Overloaded, errors.NotStored, errors.Unconfirmed, errors.ShuttingDown)


def _problem(status: int, codes: list[str]) -> dict[str, Any]:
    headers = {**ALWAYS, **PROBLEM_HEADERS.get(status, {})}
    return {
        "description": ", ".join(codes),
        "headers": headers,
        "content": {"application/problem+json": {"schema": schema_of(ProblemDetails)}},
    }
