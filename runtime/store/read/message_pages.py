"""Pages of messages, from the cache if it is current, otherwise from the database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from runtime.db.database import Database, Row
from runtime.metrics import Metrics
from runtime.models import MessagePage, Role
from runtime.store.cache import Cache, Encoded, Entry
from runtime.store.messages import encode_chat_message, encode_message
from runtime.store.paging import CHUNK_BYTES, PAGE_BYTES, Listing, count_fitting, fetch_page
from runtime.store.records import Head, MessageRow, head_from
from runtime.store.validation import json_list

# The most messages of a chunk, where all messages are read.
CHUNK = 1000
# The most sequence numbers that a query scans for messages of one role, which takes 5 ms. An index by role
# would make every append a third slower.
ROLE_WINDOW = 10_000

AFTER = Listing("list_page_after", "measure_page_after")
BEFORE = Listing("list_page_before", "measure_page_before")

# The messages after the first number, up to the second.
Range = tuple[int, int]
Encode = Callable[[MessageRow], bytes]


class MessagesCut(Exception):
    """Messages were removed while they were read: the result would not be one state of the session."""


class MessageChunk(NamedTuple):
    """Messages that are read at once, and whether more follow."""

    messages: list[Encoded]
    more: bool


class NumberedPage(NamedTuple):
    """A numbered page, read as it is consumed. Its chunks may raise MessagesCut."""

    head: Head
    more: bool
    end_seq: int | None
    chunks: AsyncIterator[MessageChunk]


class MessagePages:
    """Reads the messages of a session at a head."""

    def __init__(self, database: Database, cache: Cache, metrics: Metrics) -> None:
        self._database = database
        self._cache = cache
        self._metrics = metrics

    async def after(
        self, head: Head, after: int, limit: int, role: Role | None, max_bytes: int = PAGE_BYTES
    ) -> MessagePage:
        """The page after a message."""
        if role is None:
            entry = await self._entry(head)
            page = None if entry is None else entry.after(after, limit, max_bytes)
            self._count(page is not None)
            if page is not None:
                return page_of(head, *page)
        messages, more = await self._find(head, AFTER, _forward(head, after, role), limit, role, max_bytes)
        if role is None and not more:
            self._cache.put_tail(head, after + 1, messages)
        return page_of(head, messages, more)

    async def before(
        self, head: Head, end: int, limit: int, role: Role | None, max_bytes: int = PAGE_BYTES
    ) -> MessagePage:
        """The page that ends before a message."""
        if role is None:
            entry = await self._entry(head)
            page = None if entry is None else entry.before(end, limit, max_bytes)
            self._count(page is not None)
            if page is not None:
                return page_of(head, *page)
        found, more = await self._find(head, BEFORE, _backward(head, end, role), limit, role, max_bytes)
        messages = found[::-1]
        if role is None and end > head.last_seq:
            self._cache.put_tail(head, messages[0][0] if more else 1, messages)
        return page_of(head, messages, more)

    async def numbered(self, head: Head, page: int, page_size: int, role: Role | None) -> NumberedPage:
        """The `page`-th page, from 1. It is measured now, and read as it is consumed."""
        offset = (page - 1) * page_size
        rows = await self._database.fetch("measure_page_at", head.id, role, offset, page_size + 1)
        measured = [(row["seq"], row["size"]) for row in rows[:page_size] if row["seq"] <= head.last_seq]
        return NumberedPage(
            head=head,
            more=len(rows) > page_size,
            end_seq=measured[-1][0] if measured else None,
            chunks=self._read_measured(head, measured, role),
        )

    async def _read_measured(
        self, head: Head, measured: Sequence[tuple[int, int]], role: Role | None
    ) -> AsyncIterator[MessageChunk]:
        start = 0
        while start < len(measured):
            sizes = [size for _, size in measured[start:]]
            count = max(count_fitting(sizes, CHUNK_BYTES), 1)
            first, last = measured[start][0], measured[start + count - 1][0]
            rows = await self._database.fetch(
                AFTER.rows, head.id, first - 1, last, role, count, sum(sizes[:count])
            )
            if len(rows) < count:
                raise MessagesCut
            start += count
            chunk = MessageChunk(_encode(rows, encode_message), start < len(measured))
            # Free this chunk before the next one is read.
            del rows
            yield chunk
            del chunk

    async def conversation(self, head: Head) -> AsyncIterator[MessageChunk]:
        """All messages in chat form, read as they are consumed. Raises MessagesCut, maybe only at the end."""
        after, left, more = 0, head.message_count, True
        while more:
            ranges = _forward(head, after, None)
            chunk, more = await self._find(head, AFTER, ranges, CHUNK, None, CHUNK_BYTES, encode_chat_message)
            if chunk:
                after = chunk[-1][0]
                left -= len(chunk)
                yield MessageChunk(chunk, more)
            # Free this chunk before the next one is read.
            del chunk
        # Numbers are not reused and messages do not change: if the count is right, none was removed.
        if left:
            names = json_list([(head.key.owner, head.key.session_id)])
            heads = [head_from(row) for row in await self._database.fetch("list_heads", names)]
            if not heads or heads[0].id != head.id or heads[0].cut_version > head.version:
                raise MessagesCut

    async def _find(
        self,
        head: Head,
        listing: Listing,
        ranges: Iterable[Range],
        limit: int,
        role: Role | None,
        max_bytes: int,
        encode: Encode = encode_message,
    ) -> tuple[list[Encoded], bool]:
        """The first messages in the ranges, and whether more follow in them."""
        found: list[Encoded] = []
        for low, high in ranges:
            rows, more = await fetch_page(
                self._database,
                listing,
                (head.id, low, high, role),
                limit - len(found),
                max_bytes,
                least=0 if found else 1,
            )
            encoded = _encode(rows, encode)
            found += encoded
            max_bytes -= sum([len(memoryview(raw)) for _, raw in encoded])
            if more:
                return found, True
        return found, False

    async def _entry(self, head: Head) -> Entry | None:
        """The cached tail of a session at `head`; only missing messages are read (R2)."""
        entry = self._cache.get(head.key)
        # On SQLite `find_head` has cached the head, unless it may be stale.
        behind = entry is None or (entry.head.id, entry.head.version) < (head.id, head.version)
        if behind and not self._database.sole_writer:
            old = head if entry is None else entry.head
            missing = None if entry is None else await self._missing(old, head)
            self._cache.catch_up(old, head, missing)
            entry = self._cache.get(head.key)
        current = entry is not None and entry.head.id == head.id and entry.head.version == head.version
        return entry if current else None

    async def _missing(self, old: Head, head: Head) -> list[Encoded] | None:
        """The messages between two heads; None if the cached messages cannot be extended."""
        count = head.last_seq - old.last_seq
        if old.id != head.id or head.cut_version > old.version or count > CHUNK:
            return None
        if not count:
            return []
        rows = await self._database.fetch(
            AFTER.rows, head.id, old.last_seq, head.last_seq, None, count, CHUNK_BYTES
        )
        # No rows: they exceed CHUNK_BYTES, or were removed meanwhile.
        return _encode(rows, encode_message) if rows else None

    def _count(self, hit: bool) -> None:
        (self._metrics.cache_hits if hit else self._metrics.cache_misses).inc()


def _forward(head: Head, after: int, role: Role | None) -> Iterator[Range]:
    """Ranges of the messages after a number, in order, without removed rows that are not erased yet."""
    for low, high in ((after, head.cut_after), (max(after, head.cut_through), head.last_seq)):
        width = ROLE_WINDOW if role is not None else max(high - low, 1)
        for start in range(low, high, width):
            yield start, min(start + width, high)


def _backward(head: Head, end: int, role: Role | None) -> Iterator[Range]:
    """Ranges of the messages before a number, the latest first, without removed rows."""
    for low, high in ((head.cut_through, end - 1), (0, min(head.cut_after, end - 1))):
        width = ROLE_WINDOW if role is not None else max(high - low, 1)
        for stop in range(high, low, -width):
            yield max(stop - width, low), stop


def last_seq_kept(head: Head) -> int:
    """The highest number that an existing message may have."""
    return head.last_seq if head.last_seq > head.cut_through else head.cut_after


def _encode(rows: Sequence[Row], encode: Encode) -> list[Encoded]:
    return [(message.seq, msgspec.Raw(encode(message))) for message in map(MessageRow._make, rows)]


def page_of(head: Head, messages: Sequence[Encoded], more: bool) -> MessagePage:
    """A page of a session at a head."""
    return MessagePage(
        session_id=head.key.session_id,
        seqs=[seq for seq, _ in messages],
        encoded=[raw for _, raw in messages],
        more=more,
        last_seq=head.last_seq,
        version=head.version,
    )
