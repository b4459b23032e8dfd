"""Reads the body of a request: in time, within its bounds, and into the types of the handlers.

Everything raises InvalidInput, which names the place, or HttpError.
"""

from __future__ import annotations

import asyncio
import gc
import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar, cast

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from runtime.api.admission import HOLDING
from runtime.api.problems import HttpError
from runtime.errors import InvalidInput
from runtime.store.inputs import invalid_input

T = TypeVar("T")

# Seconds that a body may take.
READ_TIMEOUT = web.AppKey("read_timeout", float)

JSON_TYPES = frozenset({"application/json", "application/json; charset=utf-8"})
SURROGATE = re.compile("[\ud800-\udfff]")
# A body of more bytes may be millions of small lists, which take seconds to be walked over.
LARGE = 256 * 1024


def convert_body(value: Any, wanted: type[T]) -> T:
    """A decoded body as its type."""
    if wanted is Any:
        return cast(T, value)  # msgspec would copy it, whole.
    try:
        return msgspec.convert(value, wanted)
    except msgspec.ValidationError as error:
        raise invalid_input(error, "$") from None


async def read_json(request: web.Request, *, required: bool) -> Any:
    """The body, decoded; None for an empty one, unless it is `required`."""
    body = await _read(request)
    if not body:
        if required:
            raise HttpError(400, "invalid_json", "the body is empty; it must be JSON")
        return None
    _check_content_type(request)
    _check_not_encoded(request)
    try:
        return _decode(body)
    except RecursionError:
        raise InvalidInput("$", "is nested too deep") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _refuse(body, error)


async def _read(request: web.Request) -> bytes:
    """The body: in time, within its bound, and within the shares of whoever sends it."""
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
    """A part of the body, counted for whoever sends it; so much came before it."""
    if before + len(part) > request.client_max_size:
        raise _too_large(request.client_max_size)
    request[HOLDING].take("bytes", len(part))
    return part


def _unreadable(request: web.Request, status: int, code: str, detail: str) -> HttpError:
    # Nothing more can be read of it: else aiohttp would try, to use the connection again.
    request.content.feed_eof()
    return HttpError(status, code, detail, close=True)


def _too_large(limit: int) -> HttpError:
    return HttpError(413, "body_too_large", f"the body has more than {limit} bytes")


def _check_content_type(request: web.Request) -> None:
    if request.headers.get("Content-Type", "").lower() in JSON_TYPES:
        return
    charset = (request.charset or "utf-8").lower()
    if request.content_type != "application/json" or charset not in ("utf-8", "utf8"):
        raise HttpError(415, "unsupported_media_type", "the body must be application/json in UTF-8")


def _check_not_encoded(request: web.Request) -> None:
    # A few kilobytes could unpack to gigabytes (RFC 9110, 15.5.16).
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise HttpError(415, "unsupported_media_type", "the body must not have a Content-Encoding")


def _decode(body: bytes) -> Any:
    if len(body) <= LARGE:
        return msgspec.json.decode(body)
    # The collector would walk over all of it again and again, and stop everybody meanwhile.
    gc.disable()
    try:
        return msgspec.json.decode(body)
    finally:
        gc.enable()


def _refuse(body: bytes, error: Exception) -> NoReturn:
    """Say what is wrong with a body that could not be decoded."""
    if isinstance(error, msgspec.ValidationError):
        place = _find(body, _is_out_of_range) or "$"
        raise InvalidInput(place, "has a number that is out of range") from None
    if path := _find(body, _is_surrogate):
        raise InvalidInput(path, "has a lone surrogate, which is not text and cannot be stored") from None
    raise HttpError(400, "invalid_json", f"the body is not JSON: {error}") from None


def _find(body: bytes, is_wrong: Callable[[Any], bool]) -> str | None:
    """Where a body that Python takes for JSON has the first value, or name, that is wrong.

    It is not looked for in a large one.
    """
    if len(body) > LARGE:
        return None
    try:
        value = json.loads(body.decode(), parse_constant=_refuse_constant)
        return next(_places(value, "$", is_wrong), None)
    except (ValueError, RecursionError):
        return None


def _is_surrogate(value: Any) -> bool:
    return isinstance(value, str) and SURROGATE.search(value) is not None


def _is_out_of_range(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    return isinstance(value, int) and not -(2**63) <= value < 2**64


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _places(value: Any, path: str, is_wrong: Callable[[Any], bool]) -> Iterator[str]:
    if is_wrong(value):
        yield path
    elif isinstance(value, dict):
        for name, field in value.items():
            # A name that is wrong cannot be repeated in the reply, which is UTF-8.
            yield from (path,) if is_wrong(name) else _places(field, f"{path}.{name}", is_wrong)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _places(item, f"{path}[{index}]", is_wrong)
