"""The OpenAPI 3.1 document, from the types that the handlers parse with and answer with."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from types import NoneType
from typing import Any, get_args

from runtime import __version__
from runtime.agents.turn_messages import DecisionMessage, ToolResultMessage
from runtime.api.approvals import Verdict
from runtime.api.event_schemas import EVENT_DATA, EVENT_IDS
from runtime.api.openapi_replies import describe_failures, describe_reply, schema_of, schemas_of
from runtime.api.problems import ProblemDetails
from runtime.api.request import MEMBER
from runtime.api.routes import Route
from runtime.models import KEY_PATTERN, Key
from runtime.store.messages import MessageInput
from runtime.store.read.session_lists import MAX_MEMBERS

NOT_A_WORD = re.compile(r"\W+")

# Named by hand-written references, and so found by no route.
REFERENCED = (MessageInput, ProblemDetails, *EVENT_DATA)

# KEY_PATTERN without what Python alone needs: elsewhere $ is the very end, and no text has surrogates.
PORTABLE_PATTERN = r"^[^\x00-\x1f\x7f-\x9f]+$"

# What a write may carry, and what one that can be buffered may carry as well.
WRITE_HEADERS = {
    "Idempotency-Key": (
        "A repeat answers as the first request did.",
        {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[\x21-\x7e]+$"},
    ),
    "If-Match": (
        "The version that the session must have, in quotes; * for any.",
        {"anyOf": [{"const": "*"}, {"type": "string", "pattern": r'^"(0|[1-9][0-9]{0,17})"$'}]},
    ),
}
BUFFER_HEADERS = {
    "Prefer": (
        "respond-async: 202 at once, stored soon. wait: after the commit. Others are ignored.",
        {"type": "string", "examples": ["respond-async", "wait"]},
    )
}
ACT_FOR = {
    "X-Owner": (
        "With the scope admin: the owner to act for. Other characters than ASCII are sent in UTF-8.",
        {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[\x21-\x7e]+( [\x21-\x7e]+)*$"},
    )
}
RESUMED = "The id of the last event that was received: the stream goes on behind it."

SECURITY_SCHEMES = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token of `agent-runtime token create`, or a JWT.",
    },
    "internal": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Internal-Auth",
        "description": "The key of a trusted service.",
    },
}

# What the types cannot say: which fields of theirs belong together.
IS_EDIT = {"properties": {"decision": {"const": "edit"}}}
ONLY_AN_EDIT_HAS_ARGUMENTS = {
    "if": IS_EDIT,
    "then": {
        "required": ["modified_arguments"],
        "properties": {"modified_arguments": {"not": {"type": "null"}}},
    },
    "else": {"properties": {"modified_arguments": {"type": "null"}}},
}
# Where both are sent, the one that is not meant is null.
EITHER_RESULT_OR_ERROR = {
    "if": {"required": ["error"], "properties": {"error": {"not": {"type": "null"}}}},
    "then": {"properties": {"result": {"type": "null"}}},
    "else": {"required": ["result"]},
}
CONDITIONS: dict[type, dict[str, Any]] = {
    Verdict: ONLY_AN_EDIT_HAS_ARGUMENTS,
    DecisionMessage: ONLY_AN_EDIT_HAS_ARGUMENTS,
    ToolResultMessage: EITHER_RESULT_OR_ERROR,
}

# The parameters metadata.KEY=VALUE, as an object whose members are the parameters.
MEMBER_PARAMETER = {
    "name": "metadata",
    "in": "query",
    "required": False,
    "style": "form",
    "explode": True,
    "description": "metadata.KEY=VALUE: the sessions that have this member. Repeated: all must hold.",
    "schema": {
        "type": "object",
        "propertyNames": {"pattern": r"^metadata\."},
        "additionalProperties": {"type": "string"},
        "maxProperties": MAX_MEMBERS,
    },
}


def describe(routes: Iterable[Route]) -> dict[str, Any]:
    """The document, as what JSON is made of."""
    routes = tuple(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    document = {
        "openapi": "3.1.0",
        "info": {"title": "agent-runtime", "version": __version__},
        "paths": paths,
        "components": {"schemas": _components(routes), "securitySchemes": SECURITY_SCHEMES},
    }
    portable: dict[str, Any] = _portable(document)
    return portable


def _portable(node: Any) -> Any:
    """The same with patterns that every language knows."""
    if isinstance(node, dict):
        return {name: _portable(part) for name, part in node.items()}
    if isinstance(node, list):
        return [_portable(part) for part in node]
    return PORTABLE_PATTERN if node == KEY_PATTERN else node


def _components(routes: tuple[Route, ...]) -> dict[str, Any]:
    bodies = [kind for route in routes for kind in _bodies(route)]
    replies = [kind for route in routes for kind in route.replies.values() if kind is not None]
    _, components = schemas_of([*REFERENCED, *bodies, *replies])
    for kind, condition in CONDITIONS.items():
        components[kind.__name__].update(condition)
    return components


def _bodies(route: Route) -> tuple[Any, ...]:
    """The types that the body may have; none where no body is looked at."""
    body = route.parsed[1]
    if route.forms:
        return route.forms
    return () if body is NoneType else get_args(body) or (body,)


def _operation(route: Route) -> dict[str, Any]:
    bodies = _bodies(route)
    operation: dict[str, Any] = {
        # A handler may serve two paths; an operation's id is its own.
        "operationId": NOT_A_WORD.sub("_", route.method.lower() + route.path).rstrip("_"),
        "summary": inspect.getdoc(route.handler),
        "tags": [route.handler.__module__.rpartition(".")[2]],
        "parameters": [
            *({"name": key, "in": "path", "required": True, "schema": schema_of(Key)} for key in route.keys),
            *_query_parameters(route),
            *_header_parameters(route),
        ],
        "responses": {
            **describe_failures(route, has_body=bool(bodies)),
            **{str(status): describe_reply(route, status) for status in route.replies},
        },
    }
    if route.scope is not None:
        # OpenAPI 3.1 lets other schemes than OAuth name what is needed, too.
        operation["security"] = [{"token": [route.scope]}, {"internal": []}]
    if bodies:
        operation["requestBody"] = {
            "required": NoneType not in bodies,
            "content": {"application/json": {"schema": _any_of([schema_of(kind) for kind in bodies])}},
        }
    return operation


def _any_of(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _query_parameters(route: Route) -> Iterator[dict[str, Any]]:
    query = route.parsed[0]
    if query is NoneType:
        return
    _, components = schemas_of((query,))
    described = components[query.__name__]
    for name, schema in described["properties"].items():
        if name == MEMBER.rstrip("."):
            yield MEMBER_PARAMETER
            continue
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
    if route.method == "GET" and (pattern := EVENT_IDS.get(route.replies[200])):
        headers["Last-Event-ID"] = (RESUMED, {"type": "string", "pattern": pattern})
    if route.scope is not None:
        headers.update(ACT_FOR)
    for name, (text, schema) in headers.items():
        yield {"name": name, "in": "header", "description": text, "schema": schema}
