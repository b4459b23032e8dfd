"""Cache of heads and of the latest messages of the busiest sessions (R1)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from sys import getsizeof
from typing import cast

import msgspec

from runtime.store.changes import CommittedChange
from runtime.store.messages import encode_message
from runtime.store.paging import PAGE_BYTES, count_fitting
from runtime.store.records import Head, MessageRow, SessionKey

# An entry is trimmed to this many messages once it has half as many again.
TAIL_LENGTH = 200
# Approximate bytes of an entry, and of a message in it, beside their texts.
ENTRY_OVERHEAD, MESSAGE_OVERHEAD = 1000, 300

# A message by its number: encoded for readers, or a row that is encoded when it is first read. Most are
# never read from the cache.
Encoded = tuple[int, msgspec.Raw]
Kept = tuple[int, msgspec.Raw | MessageRow]
_seq_of: Callable[[Kept], int] = itemgetter(0)


class Entry:
    """A head, and every stored message from number `start` on, without a gap."""

    def __init__(self, head: Head, start: int) -> None:
        self.head = head
        self.start = start
        self.messages: list[Kept] = []
        self.sizes: list[int] = []
        # Messages from this index on may not be encoded yet.
        self.unread = 0
        self.size = ENTRY_OVERHEAD

    def extend(self, messages: Sequence[Kept]) -> None:
        """Add the messages that follow."""
        for seq, message in messages:
            size = _size(message)
            self.messages.append((seq, message))
            self.sizes.append(size)
            self.size += size
        if len(self.messages) > TAIL_LENGTH * 3 // 2:
            excess = len(self.messages) - TAIL_LENGTH
            self.start = _seq_of(self.messages[excess])
            self.size -= sum(self.sizes[:excess])
            del self.messages[:excess], self.sizes[:excess]
            self.unread = max(self.unread - excess, 0)

    def after(self, seq: int, limit: int, max_bytes: int = PAGE_BYTES) -> tuple[list[Encoded], bool] | None:
        """The page after a message, and whether more follow; None if the entry begins later."""
        if seq + 1 < self.start:
            return None
        first = bisect_right(self.messages, seq, key=_seq_of)
        end = min(first + limit, len(self.messages))
        if sum(self.sizes[first:end]) > max_bytes:
            end = first + max(count_fitting(self.sizes[first:end], max_bytes), 1)
        return self._slice(first, end), end < len(self.messages)

    def before(self, seq: int, limit: int, max_bytes: int = PAGE_BYTES) -> tuple[list[Encoded], bool] | None:
        """The page that ends before a message, oldest first, and whether older messages exist.

        None if the entry does not reach back far enough.
        """
        end = bisect_left(self.messages, seq, key=_seq_of)
        whole = len(self.messages) == self.head.message_count
        if end < limit and not whole:
            return None
        first = max(0, end - limit)
        if sum(self.sizes[first:end]) > max_bytes:
            first = end - max(count_fitting(self.sizes[first:end][::-1], max_bytes), 1)
        return self._slice(first, end), first > 0 or not whole

    def _slice(self, first: int, end: int) -> list[Encoded]:
        for place in range(max(first, self.unread), end):
            self.messages[place] = _encoded(*self.messages[place])
        if first <= self.unread < end:
            self.unread = end
        return cast(list[Encoded], self.messages[first:end])


def _encoded(seq: int, message: msgspec.Raw | MessageRow) -> Encoded:
    return seq, msgspec.Raw(encode_message(message)) if isinstance(message, tuple) else message


def _size(message: msgspec.Raw | MessageRow) -> int:
    if isinstance(message, tuple):
        texts = [column for column in message if type(column) is str]
        # The larger of a text's sizes in memory and as UTF-8.
        sizes = [getsizeof(t) if t.isascii() else max(getsizeof(t), 3 * len(t)) for t in texts]
        return MESSAGE_OVERHEAD + sum(sizes)
    return MESSAGE_OVERHEAD + len(memoryview(message))


class Cache:
    """Entries by session, bounded in bytes; the least recently used is evicted first.

    `epoch` counts commits and evictions: a head read from the database is cached only if it has not changed.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.size = 0
        self.epoch = 0
        self._entries: OrderedDict[SessionKey, Entry] = OrderedDict()
        self._keys: dict[int, SessionKey] = {}

    def get(self, key: SessionKey) -> Entry | None:
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def head(self, key: SessionKey) -> Head | None:
        entry = self.get(key)
        return entry.head if entry is not None else None

    def apply(self, change: CommittedChange) -> None:
        """Apply a committed change."""
        self.epoch += 1
        if change.head is None:
            self._drop(change.key)
            return
        entry, added = self.get(change.key), change.added
        # A new session may have messages that were copied inside the database.
        last_seq = change.head.last_seq - len(added) if change.base is None else change.base.last_seq
        if entry is None or not _continues(entry, change) or len(added) > TAIL_LENGTH:
            # Only the tail of very many messages is processed.
            added = added[-TAIL_LENGTH:]
            entry = Entry(change.head, added[0].seq if added else last_seq + 1)
        self._store(change.head, entry, [(row.seq, row) for row in added])

    def put_head(self, head: Head, epoch: int) -> None:
        """Cache a head that was read at `epoch`, unless something was committed since: it may be stale."""
        if epoch == self.epoch and head.key not in self._entries:
            self._store(head, Entry(head, head.last_seq + 1), ())

    def note_version(self, key: SessionKey, version: int | None) -> None:
        """Evict a session whose entry is older than `version`, or any entry if None: the session is gone.

        A commit is visible in the file a moment before it is applied here. A reader that saw it in the file
        must not be followed by one that reads an older state from the cache.
        """
        entry = self._entries.get(key)
        if entry is not None and (version is None or entry.head.version < version):
            self.epoch += 1
            self._drop(key)

    def note_locked(self, keys: Sequence[SessionKey], heads: Mapping[SessionKey, Head]) -> None:
        """Evict those keys whose locked head is missing or belongs to a newer session."""
        for key in keys:
            entry, head = self._entries.get(key), heads.get(key)
            if entry is not None and (head is None or head.id != entry.head.id):
                self.epoch += 1
                self._drop(key)

    def drop_session(self, session_db_id: int) -> None:
        """Evict the session with this id: another instance has deleted it."""
        if (key := self._keys.get(session_db_id)) is not None:
            self.epoch += 1
            self._drop(key)

    def catch_up(self, old: Head, head: Head, missing: Sequence[Encoded] | None) -> None:
        """Advance an entry from `old` to a head read from the database, by the messages in between.

        Without `missing` the entry keeps only the head.
        """
        entry = self._entries.get(head.key)
        # A session that was erased and created again has a higher id and starts at version 1.
        if entry is not None and (entry.head.id, entry.head.version) >= (head.id, head.version):
            return
        if entry is None or missing is None or entry.head.id != old.id or entry.head.version < old.version:
            entry, missing = Entry(head, head.last_seq + 1), ()
        # Another reader or a commit may have added some of them during the query.
        last_seq = entry.head.last_seq
        self._store(head, entry, [message for message in missing if _seq_of(message) > last_seq])

    def put_tail(self, head: Head, start: int, messages: Sequence[Encoded]) -> None:
        """Cache the messages from `start` to the end, if the head they were read at is still the latest."""
        entry = self._entries.get(head.key)
        if entry is not None and entry.head == head and start < entry.start:
            # Messages committed after the head was read are added with their own commit.
            covered = [message for message in messages if _seq_of(message) <= head.last_seq]
            self._store(head, Entry(head, start), covered)

    def _store(self, head: Head, entry: Entry, messages: Sequence[Kept]) -> None:
        self._drop(head.key)
        entry.head = head
        entry.extend(messages)
        self._entries[head.key] = entry
        self._keys[head.id] = head.key
        self.size += entry.size
        while self.size > self.max_bytes and self._entries:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: SessionKey) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size -= entry.size
            self._keys.pop(entry.head.id, None)


def _continues(entry: Entry, change: CommittedChange) -> bool:
    """Whether the entry plus the change's messages is the session's tail."""
    base, head = change.base, change.head
    if base is None or head is None or head.id != entry.head.id:
        return False
    return head.cut_version <= entry.head.version and base.last_seq == entry.head.last_seq
