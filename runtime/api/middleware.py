"""Middleware of every request: its id, problem details, duration and log line."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable
from functools import partial
from time import perf_counter

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import Histogram

from runtime.api.authorization import IDENTITY
from runtime.api.problems import problem
from runtime.api.responses import REQUEST_ID, stamp

logger = logging.getLogger("agent_runtime.http")

# Wraps aiohttp's whole handling of a request, routing included. Its own kind of middleware costs
# more than what is done here.
Around = Callable[[Handler], Handler]
MIDDLEWARE: web.AppKey[Around] = web.AppKey("around")

SANE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def random_id() -> str:
    """64 random bits as hexadecimal digits: enough to find a request in the log."""
    return f"{random.getrandbits(64):016x}"


def around_every_request(
    seconds: Histogram, *, access_log: bool, make_id: Callable[[], str] = random_id
) -> Around:
    """Puts this around what answers requests. `seconds` is observed by route, method and status."""
    return partial(_put_around, _observer(seconds), access_log, make_id)


def _put_around(
    observe: Callable[[web.Request, int, float], None],
    access_log: bool,
    make_id: Callable[[], str],
    handler: Handler,
) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        began = perf_counter()
        request_id = request.headers.get("X-Request-ID", "")
        if not SANE_ID.fullmatch(request_id):
            request_id = make_id()
        request[REQUEST_ID] = request_id
        try:
            response = await handler(request)
        except Exception as error:
            response = problem(error, request_id)
        # A stream has sent its headers already, this one among them.
        if not response.prepared:
            stamp(response, request_id)
        elapsed = perf_counter() - began
        observe(request, response.status, elapsed)
        if access_log and logger.isEnabledFor(logging.INFO):
            _log(request, response.status, elapsed * 1000, request_id)
        return response

    return answer


def _log(request: web.Request, status: int, milliseconds: float, request_id: str) -> None:
    # Without the query: some clients send their token in it.
    path, resource = request.rel_url.raw_path, request.match_info.route.resource
    fields = {
        "method": request.method,
        "path": path,
        "route": "unmatched" if resource is None else resource.canonical,
        "status": status,
        "milliseconds": round(milliseconds, 1),
        "request_id": request_id,
        "owner": request[IDENTITY].effective_owner if IDENTITY in request else None,
    }
    logger.info("%s %s %d %.1f ms %s", request.method, path, status, milliseconds, request_id, extra=fields)


def _observer(seconds: Histogram) -> Callable[[web.Request, int, float], None]:
    """Observes with labels of which there are few, whatever a client sends.

    The label values of a route are looked up once: `labels()` costs more than observing does.
    """
    known: dict[tuple[web.AbstractResource | None, str, int], Callable[[float], None]] = {}

    def observe(request: web.Request, status: int, elapsed: float) -> None:
        resource = request.match_info.route.resource
        method = request.method if request.method in METHODS else "other"
        key = (resource, method, status)
        if key not in known:
            route = "unmatched" if resource is None else resource.canonical
            known[key] = seconds.labels(route, method, str(status)).observe
        known[key](elapsed)

    return observe
