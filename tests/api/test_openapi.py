"""The OpenAPI document and the contract name the same routes, and the document holds together."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from runtime.api.application import ROUTES
from runtime.api.openapi import describe
from tests.support.api_server import Client, check

# Every route of http-api.md.
CONTRACT = {
    ("POST", "/sessions"),
    ("PUT", "/sessions/{session_id}"),
    ("GET", "/sessions"),
    ("GET", "/sessions/{session_id}"),
    ("PATCH", "/sessions/{session_id}"),
    ("DELETE", "/sessions/{session_id}"),
    ("POST", "/sessions/{session_id}/restore"),
    ("POST", "/sessions/{session_id}/fork"),
    ("GET", "/sessions/{session_id}/stats"),
    ("GET", "/search"),
    ("POST", "/maintenance/cleanup"),
    ("GET", "/owners"),
    ("DELETE", "/owners/{owner}"),
    ("POST", "/sessions/{session_id}/messages"),
    ("GET", "/sessions/{session_id}/messages"),
    ("PUT", "/sessions/{session_id}/messages"),
    ("DELETE", "/sessions/{session_id}/messages"),
    ("GET", "/sessions/{session_id}/history"),
    ("GET", "/history/{session_id}"),
    ("POST", "/sessions/{session_id}"),
    ("GET", "/sessions/{session_id}/events"),
    ("GET", "/agents"),
    ("GET", "/agents/{session_id}/current"),
    ("POST", "/sessions/{session_id}/agent"),
    ("GET", "/sessions/{session_id}/switches"),
    ("GET", "/sessions/{session_id}/context"),
    ("PATCH", "/sessions/{session_id}/context"),
    ("POST", "/sessions/{session_id}/approvals"),
    ("GET", "/sessions/{session_id}/pending-approvals"),
    ("GET", "/sessions/{session_id}/approvals"),
    ("POST", "/sessions/{session_id}/approvals/{call_id}/decision"),
    ("DELETE", "/sessions/{session_id}/approvals/{call_id}"),
    ("POST", "/agent/message/stream"),
    ("GET", "/sessions/{session_id}/turns/{turn_id}/events"),
    ("POST", "/sessions/{session_id}/turns/{turn_id}/stop"),
    ("GET", "/sessions/{session_id}/turns"),
    ("GET", "/events/metrics"),
    ("GET", "/events/metrics/sessions"),
    ("GET", "/events/metrics/session/{session_id}"),
    ("GET", "/events/audit-log"),
    ("GET", "/events/stats"),
    ("GET", "/sessions/{session_id}/export"),
    ("GET", "/owners/{owner}/export"),
    ("GET", "/health"),
    ("GET", "/health/ready"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
}

DOCUMENT = describe(ROUTES)
OPERATIONS = [
    (method, path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]


def find(name: str, node: Any) -> Iterator[Any]:
    """Every value under this name, at any depth."""
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key == name)
        for value in node.values():
            yield from find(name, value)
    elif isinstance(node, list):
        for item in node:
            yield from find(name, item)


def parameters(method: str, path: str, place: str) -> dict[str, Any]:
    operation = DOCUMENT["paths"][path][method]
    return {field["name"]: field for field in operation["parameters"] if field["in"] == place}


def test_the_document_has_the_routes_of_the_contract_and_no_others() -> None:
    assert {(method.upper(), path) for method, path, _ in OPERATIONS} == CONTRACT


async def test_the_router_has_the_routes_of_the_contract_and_no_others(client: Client) -> None:
    app = client.app
    assert app is not None
    served = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource}
    assert {(method, path) for method, path in served if method != "HEAD"} == CONTRACT


async def test_the_document_is_served(client: Client) -> None:
    served = await check(await client.get("/openapi.json"))
    assert served == DOCUMENT
    assert served["openapi"] == "3.1.0"


def test_every_reference_resolves() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    references = set(find("$ref", DOCUMENT))
    assert references
    assert {reference.removeprefix("#/components/schemas/") for reference in references} <= set(schemas)
    assert {"Session", "Message", "MessageInput", "Approval", "ProblemDetails"} <= set(schemas)


def test_operations_have_ids_of_their_own() -> None:
    ids = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"\w+", name) for name in ids)


def test_every_parameter_of_a_path_is_described() -> None:
    for method, path, _ in OPERATIONS:
        assert set(parameters(method, path, "path")) == set(re.findall(r"{(\w+)}", path))


def test_every_operation_says_what_it_answers() -> None:
    for method, path, operation in OPERATIONS:
        assert operation["summary"], (method, path)
        assert any(status.startswith("2") for status in operation["responses"]), (method, path)
        # Each status is named: a `default` would make every reply one as documented.
        assert "default" not in operation["responses"], (method, path)


def test_every_problem_is_problem_details() -> None:
    for method, path, operation in OPERATIONS:
        for status, reply in operation["responses"].items():
            if status.startswith("4"):
                [content] = reply["content"].items()
                schema = {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}
                assert content == ("application/problem+json", schema), (method, path)


def headers(method: str, path: str, status: int) -> set[str]:
    """Those that a reply has, or may have."""
    return set(DOCUMENT["paths"][path][method]["responses"][str(status)]["headers"])


def test_replies_name_their_headers() -> None:
    messages = "/sessions/{session_id}/messages"
    written = {"X-Request-ID", "ETag", "Idempotent-Replayed"}
    assert headers("post", "/sessions", 201) == written | {"Location"}
    assert headers("put", "/sessions/{session_id}", 200) == written
    assert headers("post", messages, 201) == written | {"Preference-Applied"}
    assert headers("post", messages, 202) == {"X-Request-ID", "Idempotent-Replayed", "Preference-Applied"}
    assert headers("get", messages, 200) == {"X-Request-ID", "ETag"}
    assert headers("get", "/sessions", 200) == {"X-Request-ID"}
    assert headers("post", messages, 412) == {"X-Request-ID", "ETag"}
    assert headers("post", messages, 503) == headers("get", messages, 429) == {"X-Request-ID", "Retry-After"}
    assert headers("get", messages, 401) == {"X-Request-ID", "WWW-Authenticate"}


def test_operations_say_who_may_ask() -> None:
    def needed(method: str, path: str) -> Any:
        return DOCUMENT["paths"][path][method].get("security")

    assert needed("get", "/sessions") == [{"token": ["read"]}, {"internal": []}]
    assert needed("post", "/sessions") == [{"token": ["write"]}, {"internal": []}]
    assert needed("post", "/maintenance/cleanup") == [{"token": ["admin"]}, {"internal": []}]
    assert needed("get", "/health") is None
    assert set(DOCUMENT["components"]["securitySchemes"]) == {"token", "internal"}


def test_events_are_described() -> None:
    def kinds(method: str, path: str) -> set[str]:
        content = DOCUMENT["paths"][path][method]["responses"]["200"]["content"]["text/event-stream"]
        return set(content["schema"]["discriminator"]["mapping"])

    assert kinds("get", "/sessions/{session_id}/events") == {"message", "changed"}
    turn = {"turn", "message", "done", "error", "gap"}
    assert kinds("post", "/agent/message/stream") == turn | {"session_info"}
    assert kinds("get", "/sessions/{session_id}/turns/{turn_id}/events") == turn


def test_patterns_are_understood_everywhere() -> None:
    for pattern in find("pattern", DOCUMENT):
        assert "(?" not in pattern
        assert r"\ud" not in pattern


def test_parameters_are_those_that_the_handlers_parse() -> None:
    query = parameters("get", "/sessions/{session_id}/messages", "query")
    assert set(query) == {"after", "before", "last", "limit", "page", "page_size", "role"}
    assert query["limit"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}
    assert query["after"]["schema"]["type"] == "integer"
    assert sorted(query["role"]["schema"]["enum"]) == ["assistant", "developer", "system", "tool", "user"]
    assert parameters("delete", "/sessions/{session_id}/messages", "query")["after"]["required"] is True


def test_writes_name_their_headers() -> None:
    headers = set(parameters("post", "/sessions/{session_id}/messages", "header"))
    # X-Owner is everywhere but on the public routes.
    assert headers == {"Idempotency-Key", "If-Match", "Prefer", "X-Owner"}
    changed = set(parameters("patch", "/sessions/{session_id}", "header"))
    assert changed == {"Idempotency-Key", "If-Match", "X-Owner"}
    assert set(parameters("get", "/sessions/{session_id}", "header")) == {"X-Owner"}
    followed = set(parameters("get", "/sessions/{session_id}/events", "header"))
    assert followed == {"Last-Event-ID", "X-Owner"}
    assert parameters("get", "/health", "header") == {}


def test_bodies_are_described() -> None:
    append = DOCUMENT["paths"]["/sessions/{session_id}/messages"]["post"]["requestBody"]
    schema = append["content"]["application/json"]["schema"]
    named = [choice["$ref"].rpartition("/")[2] for choice in schema["anyOf"]]
    assert named == ["MessageInput", "MessageList"]
    assert append["required"] is True
    create = DOCUMENT["paths"]["/sessions"]["post"]
    assert create["requestBody"]["required"] is False
    assert "session_exists" in create["responses"]["409"]["description"]
    session = DOCUMENT["components"]["schemas"]["NewNamedSession"]
    assert session["additionalProperties"] is False
    assert session["properties"]["messages"]["items"] == {"$ref": "#/components/schemas/MessageInput"}
