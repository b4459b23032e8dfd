"""Parses what a request carries: path, query, headers and body.

Everything raises InvalidInput, which names the place, or HttpError.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from runtime.api.admission import HOLDING, IDENTITY
from runtime.api.problems import HttpError
from runtime.errors import InvalidInput
from runtime.models import Durability, Key
from runtime.store.inputs import invalid_input
from runtime.store.writes import WriteOptions

T = TypeVar("T")

# Seconds that a body may take.
READ_TIMEOUT = web.AppKey("read_timeout", float)

JSON_TYPES = frozenset({"application/json", "application/json; charset=utf-8"})
VERSION = re.compile(r'"(0|[1-9][0-9]{0,17})"')
IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
EVENT_ID = re.compile(r"[0-9]{1,18}")
BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
PREFERENCE_END = re.compile("[;=]")
SURROGATE = re.compile("[\ud800-\udfff]")


def owner_of(request: web.Request) -> str:
    """Who asks. Empty: the owner of what is kept where nobody signs in."""
    return request[IDENTITY].owner


def write_options(request: web.Request) -> WriteOptions:
    """The owner and what the headers `Idempotency-Key` and `If-Match` say."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidInput("Idempotency-Key", "must be 1 to 255 visible ASCII characters")
    return {"owner": owner_of(request), "idempotency_key": key, "if_match": _expected_version(request)}


def _expected_version(request: web.Request) -> int | None:
    text = request.headers.get("If-Match")
    if text is None or text == "*":
        return None
    if match := VERSION.fullmatch(text):
        return int(match[1])
    raise InvalidInput("If-Match", 'must be one version in quotes, such as "7", or *')


def must_exist(request: web.Request) -> bool:
    """Whether `If-Match: *` forbids to make what is missing."""
    return request.headers.get("If-Match") == "*"


def preferred_durability(request: web.Request) -> Durability | None:
    """What `Prefer` asks for (RFC 7240): `wait`, which is the safer, wins over `respond-async`."""
    lines = request.headers.getall("Prefer", ())
    if not lines:
        return None
    asked = {PREFERENCE_END.split(part, 1)[0].strip().lower() for part in ",".join(lines).split(",")}
    if "wait" in asked:
        return "committed"
    return "buffered" if "respond-async" in asked else None


def last_event_id(request: web.Request) -> int | None:
    """The sequence number that a stream is resumed from, where `Last-Event-ID` names one."""
    text = request.headers.get("Last-Event-ID", "")
    if not text:
        return None
    if not EVENT_ID.fullmatch(text):
        raise InvalidInput("Last-Event-ID", "must be the id of a message event: a number")
    return int(text)


def last_turn_event_id(request: web.Request) -> str | None:
    """The id of the event of a turn that a stream is resumed from, where `Last-Event-ID` names one."""
    return request.headers.get("Last-Event-ID") or None


def path_key(request: web.Request, name: str) -> str:
    """A key of the path, percent-decoded."""
    value = request.match_info[name]
    # An escape that is not UTF-8 is left as it is by the router: another key than the one meant.
    if "%" in value:
        _check_escapes(request.rel_url.raw_path, name)
    try:
        return msgspec.convert(value, Key)
    except msgspec.ValidationError:
        raise InvalidInput(name, "must be 1 to 255 characters, none of them a control character") from None


def _check_escapes(raw_path: str, name: str) -> None:
    try:
        unquote_to_bytes(raw_path).decode()
    except UnicodeDecodeError:
        raise InvalidInput(name, "must be UTF-8, percent-encoded") from None
    if BROKEN_ESCAPE.search(raw_path):
        raise InvalidInput(name, "must be percent-encoded: a % stands before two hexadecimal digits")


def parse_query(request: web.Request, wanted: type[T]) -> T:
    """The query as its type. A parameter that the type does not know is ignored."""
    given = dict(request.query) if request.rel_url.raw_query_string else {}
    for name in given:
        if name in wanted.__struct_fields__:  # type: ignore[attr-defined]
            _check_said_once(request.query.getall(name), name)
    try:
        return msgspec.convert(given, wanted, strict=False)
    except msgspec.ValidationError as error:
        place = invalid_input(error, "").problems[0]
        raise InvalidInput("?" + place.path.lstrip("."), place.message) from None


def _check_said_once(texts: list[str], name: str) -> None:
    if len(texts) > 1:
        raise InvalidInput(f"?{name}", "must be given once")
    # Lax parsing takes this text for nothing at all: another question than the one asked.
    if texts[0].lower() == "null":
        raise InvalidInput(f"?{name}", "must not be null: leave it out")


def convert_body(value: Any, wanted: type[T]) -> T:
    """A decoded body as its type."""
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
        return msgspec.json.decode(body)
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
            return await _gather(request)
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
        size += len(part)
        if size > request.client_max_size:
            raise _too_large(request.client_max_size)
        request[HOLDING].take("bytes", len(part))
        parts.append(part)
    return b"".join(parts)


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


def _refuse(body: bytes, error: Exception) -> NoReturn:
    """Say what is wrong with a body that could not be decoded."""
    if isinstance(error, msgspec.ValidationError):
        place = _find(body, _is_out_of_range) or "$"
        raise InvalidInput(place, "has a number that is out of range") from None
    if path := _find(body, _is_surrogate):
        raise InvalidInput(path, "has a lone surrogate, which is not text and cannot be stored") from None
    raise HttpError(400, "invalid_json", f"the body is not JSON: {error}") from None


def _find(body: bytes, is_wrong: Callable[[Any], bool]) -> str | None:
    """Where a body that Python takes for JSON has the first value, or name, that is wrong."""
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
