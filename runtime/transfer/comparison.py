"""Compares what was imported with the source, session by session, by counts and checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
from msgspec import structs

from runtime.store.imports import StoredImport
from runtime.store.messages import NewMessage
from runtime.store.records import MessageRow
from runtime.store.store import Store
from runtime.store.write.commands import ImportSession, NumberedMessage
from runtime.transfer.reading import Progress, in_thread
from runtime.transfer.report import Report
from runtime.transfer.source import Finding, Source

# So many sessions are compared at a time, or those of so many bytes; one with more is read page by page.
SESSIONS, BYTES = 500, 4 * 1024 * 1024


class Checked(NamedTuple):
    """A session in the source: its command, and of its messages the count, the checksum and the bytes."""

    command: ImportSession
    messages: int
    checksum: bytes
    size: int


class Checksum:
    """A checksum over messages, whether they are stored or to be stored."""

    def __init__(self) -> None:
        self.count = 0
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, message: NewMessage | NumberedMessage | MessageRow) -> None:
        """Go on with the next message."""
        # A message without a number of its own is the next one.
        number = message.seq if isinstance(message, NumberedMessage | MessageRow) else self.count + 1
        fields = (
            *(number, message.role, message.content, message.timestamp, message.name, message.tool_call_id),
            *(message.tool_calls, message.token_count, message.metadata, message.extra),
        )
        self.count += 1
        self._hash.update(msgspec.msgpack.encode(fields))

    def digest(self) -> bytes:
        """The checksum of all that was added."""
        return self._hash.digest()


async def compare(source: Source, store: Store, report: Report, progress: Progress) -> None:
    """Compare each session that came from a source with it; the source is read once more."""
    report.is_compared = True
    total, done = source.count_sessions(), 0
    async for portion in in_thread(_checked(source)):
        stored = await store.imports.find([each.command.key for each in portion])
        pairs = [(each, stored[each.command.key]) for each in portion if each.command.key in stored]
        ours = [(each, found) for each, found in pairs if found.mark.source == source.name]
        whole = [(each, found) for each, found in ours if _is_unchanged(found, report)]
        for each, found, checksum in await _with_checksums(store, whole):
            _compare_session(each, found, checksum, report)
        done += len(portion)
        progress("comparing", done, total)


def _checked(source: Source) -> Iterator[Sequence[Checked]]:
    """The sessions of a source, some at a time."""
    portion: list[Checked] = []
    size = 0
    for session in source.sessions(lambda _: None):
        checksum, session_size = Checksum(), 0
        for message in session.messages:
            checksum.add(message)
            session_size += message.size
        portion.append(Checked(session.command, checksum.count, checksum.digest(), session_size))
        size += session_size
        if len(portion) >= SESSIONS or size >= BYTES:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def _is_unchanged(stored: StoredImport, report: Report) -> bool:
    """Whether a session is as it was when all of it was stored; if not, that is noted."""
    name = f"session {stored.head.key.session_id!r}"
    if stored.mark.whole_version is None:
        report.note_difference(f"{name}: not all of it is stored")
    elif stored.mark.whole_version != stored.head.version:
        report.note(Finding("changed_since", name, is_lost=False))
    return stored.mark.whole_version == stored.head.version


async def _with_checksums(
    store: Store, pairs: Sequence[tuple[Checked, StoredImport]]
) -> list[tuple[Checked, StoredImport, Checksum]]:
    """The pairs, each with the checksum of the messages that are stored."""
    small = [found.head for each, found in pairs if each.size < BYTES]
    messages = await store.imports.list_messages(small)
    results = []
    for each, found in pairs:
        checksum = Checksum()
        for message in messages.get(found.head.id, ()):
            checksum.add(message)
        if found.head.id not in messages:
            async for row in store.imports.read_messages(found.head):
                checksum.add(row)
        results.append((each, found, checksum))
    return results


def _compare_session(session: Checked, stored: StoredImport, checksum: Checksum, report: Report) -> None:
    name = f"session {session.command.key.session_id!r}"
    report.stored.add(stored.command, checksum.count)
    if _comparable(stored.command, session.command) != _comparable(session.command, session.command):
        report.note_difference(f"{name}: the session, its switches or its approvals")
    elif (checksum.count, checksum.digest()) != (session.messages, session.checksum):
        report.note_difference(f"{name}: its {session.messages} messages; {checksum.count} are stored")


def _comparable(command: ImportSession, like: ImportSession) -> ImportSession:
    """A command without what always differs: the version too, where the source gives none."""
    if like.version is None:
        command = structs.replace(command, version=None, last_seq=0, is_bare=False)
    return structs.replace(command, source="", is_whole=False)
