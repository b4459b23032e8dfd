"""Replies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

import msgspec
from aiohttp import HttpVersion11, hdrs, web
from aiohttp.helpers import rfc822_formatted_time
from msgspec import Struct

from runtime.api.aiohttp_internals import ResponseInternals
from runtime.store.write.outcomes import Accepted

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


REQUEST_ID = web.RequestKey("request_id", str)

# A reply of more bytes than this may have to wait for its reader.
LARGE = 64 * 1024


def forget_frames(error: BaseException) -> None:
    """Let go of what an error holds that ended the waiting for a reader.

    It is kept by the future that was waited for, which its frames keep as well: a cycle, and the reply in it.
    """
    error.__traceback__ = None


async def write_pieces(response: web.StreamResponse, pieces: Iterable[bytes | msgspec.Raw]) -> None:
    """Write what follows each other, at the pace of the reader.

    A transport copies what it cannot send at once: it is given no more than can be sent in two steps.
    """
    small: list[bytes | memoryview] = []
    size = 0
    for piece in pieces:
        view = memoryview(piece)
        if size + len(view) <= LARGE:
            small.append(view)
            size += len(view)
            continue
        if small:
            await response.write(b"".join(small))
        start = len(view) - len(view) % LARGE
        for place in range(0, start, LARGE):
            await response.write(view[place : place + LARGE])
        small, size = [view[start:]], len(view) - start
    if size:
        await response.write(b"".join(small))


_ALWAYS = "".join(f"{name}: {value}\r\n" for name, value in ALWAYS.items())


class Reply(ResponseInternals):
    """A whole reply, sent as one piece.

    aiohttp passes over the headers four times, which takes longer than a page of messages from memory. An
    unusual reply is left to it.
    """

    def encode_head(self, request: web.BaseRequest) -> bytes | None:
        """The head of a usual reply."""
        if not self._is_usual(request):
            self.headers.update(ALWAYS)
            return None
        return self._encode_head()

    async def write_eof(self, data: bytes = b"") -> None:
        """Send the reply, its head before its body."""
        body = self.body
        if not isinstance(body, bytes) or self.must_be_empty:
            return await super().write_eof(data)
        head = self.head or b""
        if len(body) > LARGE and not self.is_ended:
            if head:
                await self.write(head)
            await write_pieces(self, [body])
            head = body = b""
        await web.StreamResponse.write_eof(self, head + body)

    def _is_usual(self, request: web.BaseRequest) -> bool:
        """Whether there is a body, and no header about the connection is needed in HTTP/1.1."""
        has_body = request.method != hdrs.METH_HEAD and isinstance(self.body, bytes)
        stays = request.version == HttpVersion11 and request.keep_alive and self.keep_alive is None
        # aiohttp refuses other values: they could end a header and begin another.
        return has_body and stays and "".join(self.headers.values()).isprintable()

    def _encode_head(self) -> bytes:
        lines = "".join([f"{name}: {value}\r\n" for name, value in self.headers.items()])
        return (
            f"HTTP/1.1 {self.status} {self.reason}\r\n{lines}Content-Length: {self.content_length}\r\n"
            f"Date: {rfc822_formatted_time()}\r\n{_ALWAYS}\r\n"
        ).encode()


def stamp(response: web.StreamResponse, request_id: str) -> None:
    """Set the headers that every reply has."""
    if not isinstance(response, Reply):  # which does it by itself
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
    """A JSON reply, of a value or of what is encoded already.

    `version` is the session's, for the ETag; `replayed` answers a repeat (W12).
    """
    sent = {hdrs.CONTENT_TYPE: "application/json", **session_headers(version, replayed=replayed)}
    if headers:
        sent.update(headers)
    body = value if isinstance(value, bytes) else _encode(value)
    return Reply(body=body, status=status, headers=sent)


def no_content(version: int, *, replayed: bool = False) -> web.Response:
    """A reply without a body."""
    return Reply(status=204, headers=session_headers(version, replayed=replayed))


def accepted(outcome: Accepted, *, asked: bool) -> web.Response:
    """202: a buffered write (W5). `asked` is true if the request chose it."""
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
