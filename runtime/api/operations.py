"""Health, metrics and the OpenAPI document."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Literal

from aiohttp import web
from msgspec import Struct

from runtime import __version__
from runtime.api.authorization import AUTHORIZER
from runtime.api.responses import Reply, reply
from runtime.api.routes import DOCUMENT, METRICS, Call, Route
from runtime.metrics import CONTENT_TYPE

logger = logging.getLogger("agent_runtime.http")

UNAVAILABLE = "unavailable; the server's log says why"


class Health(Struct, frozen=True):
    """The process lives."""

    status: Literal["ok"]
    service: Literal["agent-runtime"]
    version: str


class Readiness(Struct, frozen=True):
    """Whether requests can be served: each check is "ok" or the reason why not."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, str]


async def get_health(call: Call[None, None]) -> web.Response:
    """Whether the process lives."""
    return reply(Health("ok", "agent-runtime", __version__))


async def get_readiness(call: Call[None, None]) -> web.Response:
    """Whether the database, its migrations and the writer are ready."""
    checks = await call.store.check_health()
    ready = all(finding == "ok" for finding in checks.values())
    if not ready and not call.request.app[AUTHORIZER].gate.open:
        # Nobody was asked who they are: a stranger learns what is not ready, and the log why.
        logger.warning("not ready: %s", checks)
        checks = {name: "ok" if finding == "ok" else UNAVAILABLE for name, finding in checks.items()}
    if ready:
        return reply(Readiness("ok", checks))
    return reply(Readiness("unavailable", checks), status=503, headers={"Retry-After": "1"})


async def get_metrics(call: Call[None, None]) -> web.Response:
    """All metrics, as Prometheus text."""
    body = call.request.app[METRICS].render()
    return Reply(body=body, headers={"Content-Type": CONTENT_TYPE})


async def get_openapi(call: Call[None, None]) -> web.Response:
    """This document."""
    # The first time it takes a tenth of a second, in which others are not to wait.
    body = await asyncio.to_thread(call.request.app[DOCUMENT])
    return Reply(body=body, content_type="application/json")


ROUTES = (
    Route("GET", "/health", get_health, {200: Health}, public=True),
    Route("GET", "/health/ready", get_readiness, {200: Readiness, 503: Readiness}, public=True),
    Route("GET", "/metrics", get_metrics, {200: str}, media_type="text/plain", admin=True),
    Route("GET", "/openapi.json", get_openapi, {200: dict[str, Any]}),
)
