"""What a failure is answered with."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from aiohttp import web

from runtime import errors
from runtime.api.problems import problem, status_of
from runtime.api.routes import STORE
from tests.support.api_server import USER, Client, check, check_problem, make, serving


def all_kinds(kind: type[errors.AgentRuntimeError]) -> set[type[errors.AgentRuntimeError]]:
    return {kind}.union(*(all_kinds(below) for below in kind.__subclasses__()))


STATUS = {
    "unauthorized": 401,
    "forbidden": 403,
    "too_many_requests": 429,
    "issuer_unavailable": 503,
    "session_not_found": 404,
    "approval_not_found": 404,
    "session_exists": 409,
    "approval_exists": 409,
    "approval_decided": 409,
    "approval_pending": 409,
    "turn_not_found": 404,
    "metrics_not_found": 404,
    "turn_running": 409,
    "turn_lost": 409,
    "call_not_open": 409,
    "approval_expired": 410,
    "version_mismatch": 412,
    "search_off": 404,
    "invalid_input": 422,
    "idempotency_key_reused": 422,
    "refused_by_database": 422,
    "not_stored": 503,
    "overloaded": 503,
    "unconfirmed": 503,
    "shutting_down": 503,
    "database_unavailable": 503,
}


def test_every_error_has_its_status() -> None:
    answered = {kind.code: status_of(kind) for kind in all_kinds(errors.AgentRuntimeError)}
    named = {code: status for code, status in answered.items() if code in STATUS}
    assert named == STATUS
    assert {status for code, status in answered.items() if code not in STATUS} <= {400, 500}


def body_of(response: web.Response) -> dict[str, Any]:
    assert isinstance(response.body, bytes)
    decoded: dict[str, Any] = json.loads(response.body)
    return decoded


@pytest.mark.parametrize("error", [RuntimeError("secret"), errors.DataRefused("secret")])
def test_what_nobody_expected_is_logged_and_not_told(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    response = problem(error, "r1")
    assert response.status == 500
    assert body_of(response)["code"] == "internal_error"
    assert "secret" not in str(body_of(response))
    [record] = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "request r1 failed")
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_an_error_of_aiohttp_is_a_problem_too() -> None:
    body = body_of(problem(web.HTTPForbidden(), "r1"))
    assert (body["status"], body["code"], body["title"]) == (403, "http_403", "Forbidden")


async def test_overload(database_url: str) -> None:
    """W9: full means 503 at once, with a time to come back at."""
    async with serving(database_url, max_pending_bytes=1, flush_interval=3600) as client:
        await make(client)
        headers = {"Prefer": "respond-async"}
        await check(await client.post("/sessions/s/messages", json=USER, headers=headers), 202)
        response = await client.post("/sessions/s/messages", json=USER)
        await check_problem(response, 503, "overloaded")
        assert int(response.headers["Retry-After"]) >= 1


async def test_a_closing_store(client: Client) -> None:
    await make(client)
    app = client.app
    assert app is not None
    await app[STORE].close(1)
    written = await client.post("/sessions/s/messages", json=USER)
    await check_problem(written, 503, "shutting_down")
    assert written.headers["Retry-After"]
    read = await client.get("/sessions")
    body = await check_problem(read, 503, "database_unavailable")
    assert body["detail"] == "the database cannot be reached for now"
    assert read.headers["Retry-After"]
    ready = await check(await client.get("/health/ready"), 503)
    assert ready["status"] == "unavailable"
    assert ready["checks"]["database"] != "ok"
    await check(await client.get("/health"))
