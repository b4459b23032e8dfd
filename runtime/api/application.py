"""Puts the routes together."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import msgspec
from aiohttp import web

from runtime.access.authentication import Authenticator
from runtime.access.quotas import ClientLimits, Quotas
from runtime.agents.engine import Engine
from runtime.api import (
    activity,
    agents,
    approvals,
    events,
    exports,
    messages,
    operations,
    owners,
    search,
    sessions,
    turns,
)
from runtime.api.authorization import AUTHORIZER, Authorizer
from runtime.api.body import READ_TIMEOUT
from runtime.api.gateway_dialect import GatewayDialect
from runtime.api.middleware import MIDDLEWARE, around_every_request
from runtime.api.openapi import describe
from runtime.api.parser_process import PARSER, BodyParser
from runtime.api.routes import (
    DEFAULT_MODEL,
    DEFAULT_STREAM_TIMEOUTS,
    DIALECT,
    DOCUMENT,
    ENGINE,
    METRICS,
    STORE,
    STREAM_TIMEOUTS,
    StreamTimeouts,
    add_routes,
)
from runtime.api.stream_dialects import NativeDialect
from runtime.api.throttle import Throttle
from runtime.config import Settings
from runtime.metrics import Metrics
from runtime.store.store import Store

# In the order in which the router looks: the most frequent first.
ROUTES = (
    *messages.ROUTES,
    *agents.ROUTES,
    *turns.ROUTES,
    *approvals.ROUTES,
    *events.ROUTES,
    *sessions.ROUTES,
    *owners.ROUTES,
    *activity.ROUTES,
    *search.ROUTES,
    *exports.ROUTES,
    *operations.ROUTES,
)


# To make the OpenAPI document is a third of the time to start, and few ask for it.
_document: Callable[[], bytes] = cache(lambda: msgspec.json.encode(describe(ROUTES)))


def create_app(
    store: Store,
    engine: Engine,
    gate: Authenticator,
    settings: Settings,
    metrics: Metrics,
    *,
    pace: StreamTimeouts = DEFAULT_STREAM_TIMEOUTS,
) -> web.Application:
    """The HTTP application over an open store and the engine that runs its turns; `gate` authenticates.

    The caller closes both after the application, and ends the streams of the store's followers
    when the application begins to shut down.
    """
    app = web.Application(client_max_size=settings.max_body_bytes)
    app[MIDDLEWARE] = around_every_request(metrics.http_request_seconds, access_log=settings.access_log)
    app[STORE] = store
    app[ENGINE] = engine
    app[METRICS] = metrics
    app[STREAM_TIMEOUTS] = pace
    app[DIALECT] = GatewayDialect() if settings.dialect == "gateway" else NativeDialect()
    limits = ClientLimits(settings.client_requests, settings.client_streams, settings.client_bytes)
    app[AUTHORIZER] = Authorizer(gate, Throttle(settings.write_timeout / 2), Quotas(limits))
    app[READ_TIMEOUT] = settings.read_timeout
    app[PARSER] = BodyParser()
    app.on_cleanup.append(_close_parser)
    app[DOCUMENT] = _document
    app[DEFAULT_MODEL] = settings.llm_model if settings.llm_url or settings.llm_proxy_url else "echo"
    add_routes(app.router, ROUTES, app[AUTHORIZER])
    return app


async def _close_parser(app: web.Application) -> None:
    await app[PARSER].close()
