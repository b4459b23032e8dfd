"""Parses what a request carries beside its body: path, query and headers.

Everything raises InvalidInput, which names the place, or HttpError.
"""

from __future__ import annotations

import re
from functools import lru_cache, partial
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec
from aiohttp import web
from yarl import URL

from runtime.api.authorization import IDENTITY, make_room
from runtime.errors import InvalidInput
from runtime.models import Durability
from runtime.store.submission import WriteOptions
from runtime.store.validation import check_key, invalid_input

T = TypeVar("T")

# Begins the name of a parameter that filters by a member of metadata.
MEMBER = "metadata."

VERSION = re.compile(r'"(0|[1-9][0-9]{0,17})"')
IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
EVENT_ID = re.compile(r"[0-9]{1,18}")
BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
PREFERENCE_END = re.compile("[;=]")


def owner_of(request: web.Request) -> str:
    """The owner that the caller acts as; empty without access control."""
    return request[IDENTITY].effective_owner


def write_options(request: web.Request) -> WriteOptions:
    """The owner and what the headers `Idempotency-Key` and `If-Match` say."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidInput("Idempotency-Key", "must be 1 to 255 visible ASCII characters")
    return {
        "owner": owner_of(request),
        "idempotency_key": key,
        "if_match": _expected_version(request),
        # What is stored was sent within a body.
        "make_room": partial(make_room, request, request.client_max_size),
    }


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
        return check_key(value, name)
    except InvalidInput:
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
    parsed: T = _parse_query(request.rel_url.raw_query_string, wanted)  # type: ignore[arg-type]
    return parsed


@lru_cache(maxsize=256)  # Most requests ask one of the same few questions.
def _parse_query(text: str, wanted: type[Any]) -> Any:
    query = URL.build(query_string=text, encoded=True).query
    given: dict[str, Any] = dict(query)
    for name in given:
        if name in wanted.__struct_fields__:
            _check_said_once(query.getall(name), name)
    members = [(name.removeprefix(MEMBER), value) for name, value in query.items() if name.startswith(MEMBER)]
    if MEMBER[:-1] in wanted.__struct_fields__:
        if MEMBER[:-1] in given:
            raise InvalidInput("?metadata", "must name a member: metadata.KEY=VALUE")
        given[MEMBER[:-1]] = members
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
