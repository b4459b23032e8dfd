"""Lists the owners of sessions in pages that cost the same however many sessions there are."""

from __future__ import annotations

from collections.abc import Mapping

from runtime.db.database import Database, Row
from runtime.models import MAX_SEQ, Key, Owner, OwnerPage
from runtime.store.paging import decode_cursor, encode_cursor

# The most sessions that are counted for a page: in about 0.1 s.
MOST_COUNTED = 10_000


class OwnerReader:
    """Reads which owners have sessions, and how many.

    Exact numbers for everybody would have to be counted on each page, or kept by each write in a row that all
    writes to an owner would wait for. So a page counts a bounded number of sessions: it ends early where its
    owners have more together, and an owner who alone has more gets lower bounds.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_owners(self, limit: int, cursor: str | None) -> OwnerPage:
        """A page of owners in the order of their names. Raises InvalidInput for a bad cursor."""
        first = "" if cursor is None else decode_cursor(cursor, Key)
        rows = await self._database.fetch("list_owners", first, limit + 1)
        last = rows[:limit][-1]["owner"] if rows else first
        counts = await self._count(first, last, MOST_COUNTED + 1)
        # The owner whose sessions are not all counted.
        cut = max(counts) if sum(row["sessions"] for row in counts.values()) > MOST_COUNTED else None
        owners: list[Owner] = []
        for row in rows:
            owner = row["owner"]
            is_cut = cut is not None and owner >= cut
            if len(owners) == limit or (is_cut and (owners or owner != cut)):
                return OwnerPage(owners, encode_cursor(owner))
            if owner in counts:  # else it was erased in between
                owners.append(_owner_from(row, counts[owner], at_least=is_cut))
        return OwnerPage(owners, None)

    async def count(self, owner: str) -> tuple[int, int]:
        """The number of sessions of an owner, deleted ones too, and of their messages. Reads all of them."""
        counts = await self._count(owner, owner, MAX_SEQ)
        return (counts[owner]["sessions"], counts[owner]["messages"]) if counts else (0, 0)

    async def _count(self, first: str, last: str, limit: int) -> Mapping[str, Row]:
        rows = await self._database.fetch("count_sessions_by_owner", first, last, limit)
        return {row["owner"]: row for row in rows}


def _owner_from(row: Row, counts: Row, *, at_least: bool) -> Owner:
    times = [row["live_activity"], row["deleted_activity"]]
    return Owner(
        owner=row["owner"],
        sessions=counts["sessions"] - counts["deleted_sessions"],
        deleted_sessions=counts["deleted_sessions"],
        messages=counts["messages"],
        last_activity=max(time for time in times if time is not None),
        at_least=at_least,
    )
