"""Reads pages that are bounded in bytes as well as in rows (R6)."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from runtime.db.database import Database, Row

# The most bytes of the texts on a page of a reply: a page of 1,000 usual messages has a quarter of it.
PAGE_BYTES = 4 * 1024 * 1024
# The same of what is sent as it is read: small, for each reader who has stalled holds so much.
CHUNK_BYTES = 1024 * 1024


class Listing(Struct, frozen=True):
    """A statement that lists rows, none if they have too many bytes together, and one that measures them."""

    rows: str
    sizes: str


async def fetch_page(
    database: Database,
    listing: Listing,
    parameters: Sequence[object],
    limit: int,
    max_bytes: int,
    *,
    least: int = 1,
) -> tuple[Sequence[Row], bool]:
    """At most `limit` rows with at most `max_bytes`, and whether more follow. Reads no more than these.

    So many as `least` are read whatever their bytes: with one a page always leads on.
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
        # They have changed since they were measured.


def count_fitting(sizes: Sequence[int], max_bytes: int) -> int:
    """How many of the first have at most so many bytes together."""
    total = 0
    for count, size in enumerate(sizes):
        total += size
        if total > max_bytes:
            return count
    return len(sizes)
