"""Measures cuts: the number of messages that a truncation removes, and their tokens."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

from msgspec import Struct

from runtime.db.database import Row
from runtime.store.records import Head

# The most messages that one statement sums.
PAGE = 20_000


class MeasuredCut(Struct, frozen=True):
    """The messages after number `after` of a session, counted when its last one was `last_seq`.

    Valid while `cut_version` is the session's; messages added since are counted separately.
    """

    session_db_id: int
    after: int
    cut_version: int
    last_seq: int
    message_count: int
    token_total: int


class MessageSource(Protocol):
    """A database or a transaction."""

    def fetch(self, statement: str, *parameters: object) -> Awaitable[Sequence[Row]]: ...


async def sum_messages(source: MessageSource, head: Head, after: int, through: int) -> tuple[int, int]:
    """The count and the tokens of the messages after number `after`, up to `through`."""
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


async def measure_cut(source: MessageSource, head: Head, after: int) -> MeasuredCut:
    """Measure what truncating a session after `after` removes."""
    count, tokens = await sum_messages(source, head, after, head.last_seq)
    return MeasuredCut(head.id, after, head.cut_version, head.last_seq, count, tokens)
