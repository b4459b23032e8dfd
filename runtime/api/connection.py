"""Connections that disconnect slow clients, and answer a request that cannot be parsed with a problem.

aiohttp has no timeout for the headers of a request, nor for a reader that has stalled.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.streams import StreamReader

from runtime.api.aiohttp_internals import NO_BODY, ConnectionInternals, RunnerInternals, ServerInternals
from runtime.api.fd_limits import Refusals, most_connections
from runtime.api.middleware import MIDDLEWARE, Around, random_id
from runtime.api.problems import HttpError, problem
from runtime.api.responses import REQUEST_ID, stamp

logger = logging.getLogger("agent_runtime.http")

# How long a connection may lie idle between two requests, in seconds: longer than the 60 s after which the
# usual proxies give one up, so that they do not send a request into a connection that is about to close.
IDLE_SECONDS = 75.0
# How long what is left of a body is read when its request is answered already, in seconds.
LINGER_SECONDS = 10.0
# What the head of a request may have, in bytes. aiohttp bounds its lines alone, and takes a megabyte of them.
MAX_HEAD = 64 * 1024
# How many times a stalled reader is checked before it is disconnected.
LOOKS = 4
# The most characters of the reason why a request could not be parsed.
MAX_DETAIL = 200


class Connection(ConnectionInternals):
    """One connection. Within `read_timeout` seconds a request that was begun must have all its headers.

    A reader that falls further behind for `patience` seconds is cut off. Where it `streams`, its handler ends
    with it.
    """

    __slots__ = (
        *("_body", "_head_size", "_headers_due", "_line"),
        *("_moved_at", "_patience", "_read_timeout", "_taken", "streams"),
    )

    def __init__(self, server: web.Server, read_timeout: float, patience: float, **options: Any) -> None:
        super().__init__(server, **options)
        self._read_timeout = read_timeout
        self._patience = patience
        # Of the request that came last, and what has come of the head of the next one.
        self._body: StreamReader = NO_BODY
        self.streams = False
        self._head_size = 0
        self._headers_due: asyncio.TimerHandle | None = None
        # What the reader had taken when it was last looked at, in bytes, and since when it has taken no more.
        self._taken, self._moved_at = 0, 0.0
        # aiohttp forgets its own where it closes, though what is left may never be taken.
        self._line: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for headers."""
        super().connection_made(transport)
        self._line = self.transport
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        """Parse what has come; headers that are not complete become due."""
        if self.is_closing:
            return
        heads, in_head = self.parsed_requests, self._body.is_eof()
        super().data_received(data)
        if self.parsed_requests > heads:
            self._body = self.latest_body
            self._head_size = 0
            self._stop_expecting()
        elif in_head and data:
            self._head_size += len(data)
            if self._head_size > MAX_HEAD:
                self._stop_expecting()
                detail = f"the head of a request may have {MAX_HEAD} bytes"
                self.refuse(431, HttpError(431, "headers_too_large", detail))
            elif self._headers_due is None:
                self._expect_headers()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Nothing more is due."""
        self._stop_expecting()
        self._line = None
        if self.streams:
            # Else it would wait for something to send, and count as a stream meanwhile.
            self.cancel_handler()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The problem details of a request that could not be parsed; its connection is of no more use."""
        if request.writer.output_size > 0:
            raise ConnectionError("a reply has begun already")
        request_id = random_id()
        error = _as_problem(exc, message)
        reply = problem(error, request_id)
        stamp(reply, request_id)
        reply.force_close()
        return reply

    def _expect_headers(self) -> None:
        self._headers_due = self.loop.call_later(
            self._read_timeout, self._cut_slow_headers, self.parsed_requests
        )

    def _stop_expecting(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _cut_slow_headers(self, heads: int) -> None:
        self._headers_due = None
        if self.parsed_requests > heads:
            return
        if self.is_busy:
            # The replies in hand must not be lost.
            self._expect_headers()
            return
        logger.debug("a connection without a whole request in %g s is cut off", self._read_timeout)
        self.force_close()

    def cut_off_if_stalled(self, now: float) -> None:
        """Cut off a reader that has left something, be it ever so little, and taken nothing for too long."""
        if self._line is None:
            return
        request, left = self.current_request, self._line.get_write_buffer_size()
        # What was sent of this reply and is not left; of one that has ended only what is left is known.
        taken = (0 if request is None else request.writer.output_size) - left
        if not left or taken != self._taken:
            self._taken, self._moved_at = taken, now
        elif now - self._moved_at >= self._patience:
            request_id = "-" if request is None else request.get(REQUEST_ID, "-")
            logger.warning("request %s: the reader has stalled and is cut off", request_id)
            self._line.abort()


def _as_problem(error: BaseException | None, message: str | None) -> Exception:
    if isinstance(error, LineTooLong):
        return HttpError(431, "headers_too_large", "a line of the request's head is too long")
    if isinstance(error, HttpProcessingError) or error is None:
        # Its first line: the lines that follow repeat what was sent.
        said = (message or "").partition("\n")[0].strip(" :")[:MAX_DETAIL]
        return HttpError(400, "malformed_request", f"this is not HTTP that can be understood: {said}")
    return error if isinstance(error, Exception) else Exception(repr(error))


class _Server(ServerInternals):
    """Makes our connections, and no more of them than there are file descriptors for.

    It looks after all of them together, now and then: a timer for each reply would cost more than the reply.
    """

    def __init__(self, *args: Any, patience: float, **options: Any) -> None:
        super().__init__(*args, patience=patience, **options)
        self._most = most_connections()
        self._refusals = Refusals()
        self._look_every = patience / LOOKS
        self._looking = self.loop.call_later(self._look_every, self._look)

    async def shutdown(self, timeout: float | None = None) -> None:
        """Close every connection."""
        self._looking.cancel()
        await super().shutdown(timeout)

    def _look(self) -> None:
        for connection in self.open_connections:
            cast(Connection, connection).cut_off_if_stalled(self.loop.time())
        self._looking = self.loop.call_later(self._look_every, self._look)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """One more; cut off at once where it is one too many."""
        super().connection_made(handler, transport)
        if len(self.open_connections) > self._most:
            self._refusals.note(f"{self._most} are open, as many as the limit of open files allows")
            # Not at once: aiohttp is about to begin with it.
            self.loop.call_soon(transport.abort)

    def __call__(self) -> ConnectionInternals:
        return self.make(Connection)


class Runner(RunnerInternals):
    """Runs the application on connections of ours; `around` wraps the handling of every request."""

    def __init__(
        self,
        app: web.Application,
        *,
        read_timeout: float,
        patience: float,
        around: Around = lambda handler: handler,
        **options: Any,
    ) -> None:
        options |= {"read_timeout": read_timeout, "patience": patience}
        options["lingering_time"] = min(read_timeout, LINGER_SECONDS)
        # aiohttp unpacks as it parses, all at once: a few hundred kilobytes can stop everybody for seconds.
        options["auto_decompress"] = False
        super().__init__(app, access_log=None, keepalive_timeout=IDLE_SECONDS, **options)
        self._around = around

    def wrap_server(self, made: web.Server, options: dict[str, Any]) -> web.Server:
        """The server that makes our connections."""
        handler = self._around(self.app[MIDDLEWARE](made.request_handler))
        return _Server(handler, request_factory=made.request_factory, **options)
