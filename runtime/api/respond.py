"""Replies."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec
from aiohttp import hdrs, web
from msgspec import Struct

from runtime.store.commands import Accepted

_encode = msgspec.json.Encoder().encode


class AcceptedReply(Struct, frozen=True):
    """The write will be stored, together with others, within the flush interval."""

    session_id: str
    accepted: int


# Replies are data for programs: nothing of them is to be guessed at, framed, kept or passed on.
ALWAYS = {
    "Server": "agent-runtime",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def stamp(response: web.StreamResponse, request_id: str) -> None:
    """Set the headers that every reply has."""
    response.headers.update(ALWAYS)
    response.headers["X-Request-ID"] = request_id


def reply(
    value: Any,
    version: int | None = None,
    *,
    status: int = 200,
    replayed: bool = False,
    headers: dict[str, str] | None = None,
) -> web.Response:
    """A JSON reply. `version` is the session's, for the ETag; `replayed` answers a repeat (W12)."""
    sent = {hdrs.CONTENT_TYPE: "application/json", **session_headers(version, replayed=replayed)}
    if headers:
        sent.update(headers)
    return web.Response(body=_encode(value), status=status, headers=sent)


def no_content(version: int, *, replayed: bool = False) -> web.Response:
    """The reply that says nothing but that it is done."""
    return web.Response(status=204, headers=session_headers(version, replayed=replayed))


def accepted(outcome: Accepted, *, asked: bool) -> web.Response:
    """202: a buffered write (W5). `asked` says that the request itself chose it."""
    headers = {"Preference-Applied": "respond-async"} if asked else None
    body = AcceptedReply(outcome.session_id, outcome.accepted)
    return reply(body, status=202, replayed=outcome.replayed, headers=headers)


def session_headers(version: int | None, *, replayed: bool) -> dict[str, str]:
    """The version of a session, where it is known, and what marks the answer to a repeat (W12)."""
    headers: dict[str, str] = {} if version is None else {hdrs.ETAG: f'"{version}"'}
    return {**headers, "Idempotent-Replayed": "true"} if replayed else headers


def location(session_id: str) -> str:
    """Where a session is found."""
    return "/sessions/" + quote(session_id, safe="")
