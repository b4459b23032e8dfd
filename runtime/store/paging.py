"""Reads pages that are bounded in bytes as well as in rows (R6), and names where they go on."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from runtime.db.database import Row, Snapshot
from runtime.errors import InvalidInput

# The most bytes on a page of a reply: four times those of 1,000 ordinary messages.
PAGE_BYTES = 4 * 1024 * 1024
# The most bytes of a chunk that is sent as it is read. A stalled reader holds one in memory.
CHUNK_BYTES = 1024 * 1024


class Listing(Struct, frozen=True):
    """A statement that lists rows, or none if they exceed a number of bytes, and one that measures them."""

    rows: str
    sizes: str


async def fetch_page(
    database: Snapshot,
    listing: Listing,
    parameters: Sequence[object],
    limit: int,
    max_bytes: int,
    *,
    least: int = 1,
) -> tuple[Sequence[Row], bool]:
    """At most `limit` rows of at most `max_bytes`, and whether more follow. Reads no other rows.

    At least `least` rows are read, however large: with one, every page makes progress.
    """
    while True:
        rows = await database.fetch(listing.rows, *parameters, limit + 1, max_bytes)
        if rows:
            return rows[:limit], len(rows) > limit
        found = await database.fetch(listing.sizes, *parameters, limit + 1)
        sizes = [row["size"] for row in found]
        count = max(count_fitting(sizes[:limit], max_bytes), min(least, len(sizes)))
        if not count:
            return (), bool(sizes)
        rows = await database.fetch(listing.rows, *parameters, count, sum(sizes[:count]))
        if rows:
            return rows, count < len(sizes)
        # The rows have changed since they were measured.


def count_fitting(sizes: Sequence[int], max_bytes: int) -> int:
    """How many of the first sizes add up to at most `max_bytes`."""
    total = 0
    for count, size in enumerate(sizes):
        total += size
        if total > max_bytes:
            return count
    return len(sizes)


def encode_cursor(position: object) -> str:
    """The cursor of the page that follows a position. To clients it is opaque."""
    return base64.urlsafe_b64encode(msgspec.json.encode(position)).decode().rstrip("=")


def decode_cursor(cursor: str, kind: Any) -> Any:
    """The position of a cursor, of this type. Raises InvalidInput for any other text."""
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), type=kind)
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        raise wrong_cursor() from None


def wrong_cursor() -> InvalidInput:
    """The error for a cursor that no page has given."""
    return InvalidInput("$.cursor", "Expected a `next_cursor` of an earlier page")
