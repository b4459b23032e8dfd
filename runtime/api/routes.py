"""What a route is. The router and the OpenAPI document are both made from the same declarations."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar, get_args, get_type_hints

from aiohttp import web
from msgspec import Struct

from runtime.access.quotas import QuotaLease
from runtime.agents.engine import Engine
from runtime.api.authorization import Authorizer
from runtime.api.body import read_body
from runtime.api.request import owner_of, parse_query, path_key
from runtime.api.responses import LARGE, REQUEST_ID, forget_frames, stamp
from runtime.api.stream_dialects import StreamDialect
from runtime.errors import AgentRuntimeError
from runtime.metrics import Metrics
from runtime.models import Scope
from runtime.store.store import Store

Q = TypeVar("Q")
B = TypeVar("B")


class StreamTimeouts(Struct, frozen=True):
    """How replies are kept going, in seconds.

    After `heartbeat` quiet seconds a stream gets a comment, so that proxies keep it open. A reader that
    takes nothing for `patience` seconds is cut off: it would hold its reply in memory.
    """

    heartbeat: float = 15.0
    patience: float = 30.0


DEFAULT_STREAM_TIMEOUTS = StreamTimeouts()

EVENT_STREAM = "text/event-stream"

STORE = web.AppKey("store", Store)
ENGINE = web.AppKey("engine", Engine)
METRICS = web.AppKey("metrics", Metrics)
STREAM_TIMEOUTS = web.AppKey("pace", StreamTimeouts)
DIALECT: web.AppKey[StreamDialect] = web.AppKey("dialect")
DEFAULT_MODEL = web.AppKey("default_model", str)
DOCUMENT: web.AppKey[Callable[[], bytes]] = web.AppKey("document")


class Call(Struct, Generic[Q, B], frozen=True):
    """A request, parsed. A handler's annotation, `Call[query, body]`, gives the types."""

    request: web.Request
    keys: dict[str, str]
    query: Q
    body: B

    @property
    def store(self) -> Store:
        return self.request.app[STORE]

    @property
    def owner(self) -> str:
        return owner_of(self.request)

    @property
    def session_id(self) -> str:
        return self.keys["session_id"]


class Route(Struct, frozen=True):
    """A request that is answered.

    `replies` gives the type of the body for each status, None where there is none. `errors` are those
    of the store that are its own. `writes` takes `Idempotency-Key` and `If-Match`, `buffers`
    also `Prefer`. `forms` are those that a body has which parses itself. A `public`
    one answers anybody, an `admin` one does what concerns all owners.
    """

    method: str
    path: str
    handler: Callable[[Call[Any, Any]], Awaitable[web.StreamResponse]]
    replies: dict[int, Any]
    errors: tuple[type[AgentRuntimeError], ...] = ()
    writes: bool = False
    buffers: bool = False
    forms: tuple[Any, ...] = ()
    media_type: str = "application/json"
    public: bool = False
    admin: bool = False

    @property
    def scope(self) -> Scope | None:
        """The scope that a caller needs; None for a public route."""
        if self.public:
            return None
        return "admin" if self.admin else "read" if self.method == "GET" else "write"

    @property
    def keys(self) -> list[str]:
        """The names of the parameters in the path."""
        return [part[1:-1] for part in self.path.split("/") if part.startswith("{")]

    @property
    def parsed(self) -> tuple[Any, Any]:
        """The types of the query and of the body; NoneType where nothing is looked at."""
        query, body = get_type_hints(self.handler)["call"].__args__
        return query, body


def add_routes(router: web.UrlDispatcher, routes: tuple[Route, ...], admission: Authorizer) -> None:
    """Let the router answer these, to those who are admitted. GET answers HEAD as well."""
    for route in routes:
        # A key may have any character, braces too, which a plain {name} would not match.
        pattern = route.path.replace("}", ":[^/]+}")
        handler = _bind(route, admission)
        if route.method == "GET":
            router.add_get(pattern, handler, expect_handler=_expect)
        else:
            router.add_route(route.method, pattern, handler, expect_handler=_expect)


def _bind(route: Route, admission: Authorizer) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    names = route.keys
    query_type, body_type = route.parsed
    handler = route.handler
    nothing = type(None)
    required = nothing not in get_args(body_type)
    scope = route.scope
    is_stream = route.media_type == EVENT_STREAM
    starts_turn = is_stream and route.writes

    async def answer(request: web.Request) -> web.StreamResponse:
        with QuotaLease(admission.shares) as holding:
            await admission.admit(request, scope, holding)
            if is_stream:
                # Before anything is done: 429 means that nothing was.
                holding.take("streams")
            keys = {name: path_key(request, name) for name in names}
            query = None if query_type is nothing else parse_query(request, query_type)
            try:
                body = None
                if body_type is not nothing:
                    body = await read_body(request, body_type, required=required)
                response = await handler(Call(request, keys, query, body))
            except AgentRuntimeError as error:
                in_stream = request.app[DIALECT].error_reply(error) if starts_turn else None
                if in_stream is None:
                    raise
                return in_stream
            if isinstance(response, web.Response):
                await _send_if_large(request, response, holding, is_read=scope == "read")
            return response

    return answer


async def _send_if_large(
    request: web.Request, response: web.Response, holding: QuotaLease, *, is_read: bool
) -> None:
    """Send a large reply at once: until its reader has taken it, it is in hand."""
    size = len(response.body) if isinstance(response.body, bytes) else 0
    if size > LARGE:
        # Only for reads: 429 means that nothing was done. See `make_room` for what was written.
        if is_read:
            holding.take("bytes", size)
        stamp(response, request[REQUEST_ID])
        try:
            await response.prepare(request)
            await response.write_eof()
        except ConnectionError as error:  # The reader went away, or was cut off.
            forget_frames(error)


async def _expect(request: web.Request) -> None:
    """Send `100 Continue` where it is waited for. Another expectation may be ignored (RFC 9110, 10.1.1)."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
