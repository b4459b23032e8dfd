"""The private names of aiohttp that the server depends on.

No other module uses them. A test names each of them, and guards the upper bound of the dependency in
pyproject.toml.
"""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import _ErrInfo

NO_BODY: StreamReader = EMPTY_PAYLOAD


class ConnectionInternals(web.RequestHandler):
    """A connection of aiohttp's server, with the state that subclasses need."""

    __slots__ = ()

    @property
    def is_closing(self) -> bool:
        """Whether nothing more is parsed."""
        return self._close or self._force_close

    @property
    def parsed_requests(self) -> int:
        """How many requests were parsed, ever."""
        return self._request_count

    @property
    def latest_body(self) -> StreamReader:
        """The body of the request that was parsed last. Raises IndexError if its handling has begun."""
        return self._messages[-1][1]

    @property
    def is_busy(self) -> bool:
        """Whether a request waits or is handled."""
        return bool(self._messages or self._request_in_progress)

    @property
    def current_request(self) -> web.BaseRequest | None:
        """The request that is handled."""
        return self._current_request

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of the connection."""
        return self._loop

    def cancel_handler(self) -> None:
        """Cancel the task that handles requests."""
        if self._task_handler is not None:
            self._task_handler.cancel()

    def refuse(self, status: int, error: Exception) -> None:
        """Answer with an error after the requests in hand, and parse nothing more."""
        self._messages.append((_ErrInfo(status, error, ""), EMPTY_PAYLOAD))
        self._close = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class ServerInternals(web.Server):
    """aiohttp's server, with the state that subclasses need."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of the server."""
        return self._loop

    @property
    def open_connections(self) -> list[web.RequestHandler]:
        """The connections that are open."""
        return list(self._connections)

    def make(self, kind: type[ConnectionInternals]) -> ConnectionInternals:
        """A connection of this kind, with the options of the server."""
        return kind(self, loop=self._loop, **self._kwargs)


class RunnerInternals(web.AppRunner):
    """Runs an application on a server that `wrap_server` makes from aiohttp's own."""

    def wrap_server(self, made: web.Server, options: dict[str, object]) -> web.Server:
        """The server to use in place of `made`, which has these options."""
        return made

    async def _make_server(self) -> web.Server:
        # aiohttp has no public way to choose the class of its connections.
        made = await super()._make_server()
        return self.wrap_server(made, made._kwargs)


class ResponseInternals(web.Response):
    """A response whose subclass may encode its own head."""

    head: bytes | None = None
    """The encoded head, once the response is prepared; None where aiohttp encodes it."""

    def encode_head(self, request: web.BaseRequest) -> bytes | None:
        """The head as bytes; None lets aiohttp encode it."""
        return None

    @property
    def is_ended(self) -> bool:
        """Whether the response was sent."""
        return self._eof_sent

    @property
    def must_be_empty(self) -> bool:
        """Whether a reply to this request has no body."""
        return bool(self._must_be_empty_body)

    async def _start(self, request: web.BaseRequest) -> AbstractStreamWriter:
        self.head = self.encode_head(request)
        if self.head is None:
            return await super()._start(request)
        self._req, self._keep_alive, self._payload_writer = request, True, request.writer
        return request.writer
