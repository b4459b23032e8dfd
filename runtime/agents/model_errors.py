"""Errors of a model's server: their text for people, and when to ask again."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import msgspec

MAX_REFUSAL_BYTES = 64 * 1024
MAX_WORDS = 300
AN_HTML_PAGE = "an HTML page"
# Where servers keep their words: {"error": {"message": …}}, {"error": …}, {"message": …}, {"detail": …}.
PLACES = ("error", "message", "detail")


async def beginning(content: aiohttp.StreamReader) -> bytes:
    """As much of the body of a refusal as is worth reading, and as arrives."""
    body = bytearray()
    with suppress(aiohttp.ClientError, OSError):
        async for piece in content.iter_any():
            body += piece
            if len(body) >= MAX_REFUSAL_BYTES:
                break
    return bytes(body[:MAX_REFUSAL_BYTES])


def words_in(body: bytes, secret: str) -> str:
    """The words of the body of a refusal, in one line of at most 300 characters, without the secret."""
    text = body.decode(errors="replace").strip()
    if text[:9].lower().startswith(("<!doctype", "<html")):
        return AN_HTML_PAGE
    try:
        return words_of(msgspec.json.decode(body), secret)
    except (ValueError, RecursionError):
        return one_line(text, secret)


def words_of(error: Any, secret: str) -> str:
    """The same for an error that is decoded already, in any of the forms in use."""
    while isinstance(error, dict) and (inner := next((error[p] for p in PLACES if error.get(p)), None)):
        error = inner
    return one_line(error if isinstance(error, str) else reprlib.repr(error), secret)


def one_line(text: str, secret: str) -> str:
    """The text without line ends and control characters, cut to 300 characters, and without the secret."""
    shown = text.replace(secret, "***") if secret else text
    words = " ".join("".join(sign if sign.isprintable() else " " for sign in shown).split())
    return words if len(words) <= MAX_WORDS else words[: MAX_WORDS - 1] + "…"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that `Retry-After` asks for (RFC 9110, 10.2.3); None if it is not usable.

    A date is counted from the server's own `Date`, so that a clock that is wrong does not matter.
    """
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        return float(text)
    try:
        pause = parsedate_to_datetime(text) - parsedate_to_datetime(headers.get("Date", ""))
    except (ValueError, TypeError, OverflowError):
        return None
    return max(pause.total_seconds(), 0.0)
