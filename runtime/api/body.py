"""Reads the body of a request: in time, within its bounds, and into the types of the handlers.

Everything raises InvalidInput, which names the place, or HttpError.
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from runtime.api.authorization import QUOTA_LEASE
from runtime.api.parser_process import PARSER
from runtime.api.problems import HttpError

T = TypeVar("T")

# Seconds that a body may take.
READ_TIMEOUT = web.AppKey("read_timeout", float)

JSON_TYPES = frozenset({"application/json", "application/json; charset=utf-8"})


async def read_body(request: web.Request, wanted: type[T], *, required: bool) -> T | None:
    """The body as its type; None for an empty one, unless it is `required`."""
    body = await _read(request)
    if not body:
        if required:
            raise HttpError(400, "invalid_json", "the body is empty; it must be JSON")
        return None
    _check_media_type(request)
    return await request.app[PARSER].parse(body, wanted)


async def _read(request: web.Request) -> bytes:
    """Read the body within its time, its size bound and the sender's quotas."""
    if request.content_length is not None and request.content_length > request.client_max_size:
        raise _too_large(request.client_max_size)
    try:
        if request.content.is_eof():
            # All of it has come, as of nearly every request.
            return _taken(request, request.content.read_nowait(), 0)
        async with asyncio.timeout(request.app[READ_TIMEOUT]):
            return await _gather(request)
    except TimeoutError:
        detail = f"the body took longer than {request.app[READ_TIMEOUT]:g} s"
        raise _unreadable(request, 408, "request_timeout", detail) from None
    except (HttpProcessingError, web.RequestPayloadError, ConnectionError) as error:
        raise _unreadable(request, 400, "invalid_body", f"the body could not be read: {error}") from None


async def _gather(request: web.Request) -> bytes:
    parts, size = [], 0
    async for part in request.content.iter_any():
        parts.append(_taken(request, part, size))
        size += len(part)
    return b"".join(parts)


def _taken(request: web.Request, part: bytes, before: int) -> bytes:
    """Count a part of the body against the sender's quotas; `before` bytes preceded it."""
    if before + len(part) > request.client_max_size:
        raise _too_large(request.client_max_size)
    request[QUOTA_LEASE].take("bytes", len(part))
    return part


def _unreadable(request: web.Request, status: int, code: str, detail: str) -> HttpError:
    # Nothing more can be read of it: else aiohttp would try, to use the connection again.
    request.content.feed_eof()
    return HttpError(status, code, detail, close=True)


def _too_large(limit: int) -> HttpError:
    return HttpError(413, "body_too_large", f"the body has more than {limit} bytes")


def _check_media_type(request: web.Request) -> None:
    if request.headers.get("Content-Type", "").lower() not in JSON_TYPES:
        charset = (request.charset or "utf-8").lower()
        if request.content_type != "application/json" or charset not in ("utf-8", "utf8"):
            raise HttpError(415, "unsupported_media_type", "the body must be application/json in UTF-8")
    # A few kilobytes could unpack to gigabytes (RFC 9110, 15.5.16).
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise HttpError(415, "unsupported_media_type", "the body must not have a Content-Encoding")
