"""Measures what a cut takes away: how many messages, and their tokens."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

from runtime.db.database import Row
from runtime.store.commands import MeasuredCut
from runtime.store.state import Head

# How many messages a statement sums.
PAGE = 20_000


class Source(Protocol):
    """Where to read: the database, or the transaction that writes."""

    def fetch(self, statement: str, *parameters: object) -> Awaitable[Sequence[Row]]: ...


async def sum_messages(source: Source, head: Head, after: int, through: int) -> tuple[int, int]:
    """The count and the tokens of the messages behind `after`, up to `through`."""
    count = tokens = 0
    while after < through:
        cut = (head.cut_after, head.cut_through)
        [row] = await source.fetch("sum_messages_after", head.id, after, through, *cut, PAGE)
        count += row["message_count"]
        tokens += row["token_total"]
        if row["message_count"] < PAGE:
            break
        after = row["last_seq"]
    return count, tokens


async def measure_cut(source: Source, head: Head, after: int) -> MeasuredCut:
    """What a cut takes away of a session as it stands at `head`."""
    count, tokens = await sum_messages(source, head, after, head.last_seq)
    return MeasuredCut(head.id, after, head.cut_version, head.last_seq, count, tokens)
