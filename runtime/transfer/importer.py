"""Imports a source into a store: in loads, each of which may be repeated, and then compares the two."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeVar

import msgspec
from msgspec import structs

from runtime.errors import RequestError, TargetNotEmpty
from runtime.store.imports import StoredImport
from runtime.store.messages import NewMessage
from runtime.store.records import ImportMark, MessageRow
from runtime.store.store import Store
from runtime.store.write.commands import ImportMessages, ImportSession, weight
from runtime.store.write.outcomes import Imported
from runtime.transfer.report import Report
from runtime.transfer.source import Finding, Source, SourceSession

# A load is stored together: so many commands or bytes. A command has so many messages, or bytes of them.
LOAD_COMMANDS, LOAD_BYTES = 1000, 4 * 1024 * 1024
PORTION_MESSAGES, PORTION_BYTES = 500, 1024 * 1024
# How many sessions are compared at a time.
COMPARED = 200

T = TypeVar("T")
ImportCommand = ImportSession | ImportMessages
Progress = Callable[[str, int, int], None]


class Checked(NamedTuple):
    """A session in the source: its command without messages, how many these are, and their checksum."""

    command: ImportSession
    messages: int
    checksum: bytes


class Importer:
    """Imports `source` into `store`. `progress` is called with what is done, how far it is, and its end."""

    def __init__(self, source: Source, store: Store, report: Report, progress: Progress) -> None:
        self._source = source
        self._store = store
        self._report = report
        self._progress = progress
        self._total = source.count_sessions()

    async def run(self, *, merge: bool) -> None:
        """Import all of it and compare. Raises TargetNotEmpty, SourceUnreadable, NotStored, DatabaseError."""
        await self._check_target(merge)
        done = 0
        async for load in in_thread(loads(self._source, self._report)):
            for command, result in zip(load, await self._store.imports.store(load), strict=True):
                self._note(command, result)
                done += isinstance(command, ImportSession)
            self._progress("importing", done, self._total)
        await asyncio.to_thread(self._source.note_leftovers, self._report.note)
        await self._compare()

    async def _check_target(self, merge: bool) -> None:
        others = 0 if merge else await self._store.imports.count_others(self._source.name)
        if others:
            raise TargetNotEmpty(
                f"DB_URL: the database holds {others} sessions that do not come from this source; set DB_URL "
                "to a new database, or add to this one with --merge: sessions of the same id are kept"
            )

    def _note(self, command: ImportCommand, result: Imported | RequestError) -> None:
        name = f"session {command.key.session_id!r}"
        if isinstance(result, RequestError):
            self._report.note(Finding("sessions_refused", f"{name}: {result}"))
        elif isinstance(command, ImportSession):
            self._report.created += result.created
            if result.mark is None or result.mark.source != self._source.name:
                self._report.note(Finding("kept", f"{name}{_origin(result.mark)}", is_lost=False))
            else:
                self._report.continued += result.was_continued

    async def _compare(self) -> None:
        """Compare each imported session with the source, which is read once more."""
        self._report.is_compared = True
        done = 0
        async for portion in in_thread(checked(self._source)):
            found = await self._store.imports.find([each.command.key for each in portion])
            for each in portion:
                stored = found.get(each.command.key)
                if stored is not None and stored.mark.source == self._source.name:
                    await self._compare_session(each, stored)
            done += len(portion)
            self._progress("comparing", done, self._total)

    async def _compare_session(self, session: Checked, stored: StoredImport) -> None:
        name = f"session {session.command.key.session_id!r}"
        if stored.mark.whole_version != stored.head.version:
            is_begun = stored.mark.whole_version is None
            self._report.note(Finding("changed_since", name, is_lost=False))
            if is_begun:
                self._report.note_difference(f"{name}: not all of it is stored")
            return
        checksum, messages = Checksum(), 0
        async for row in self._store.imports.messages(stored.head):
            checksum.add(row)
            messages += 1
        self._report.stored.add(stored.command, messages)
        if _comparable(stored.command) != _comparable(session.command):
            self._report.note_difference(f"{name}: the session, its switches or its approvals")
        elif (messages, checksum.digest()) != (session.messages, session.checksum):
            self._report.note_difference(
                f"{name}: {messages} of {session.messages} messages, or their content"
            )


def _origin(mark: ImportMark | None) -> str:
    if mark is None:
        return ""
    return f", imported{'' if mark.whole_version else ' in part'} from {mark.source}"


def _comparable(command: ImportSession) -> ImportSession:
    return structs.replace(command, source="", is_whole=False)


class Checksum:
    """A checksum over messages, whether they are stored or to be stored."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, message: NewMessage | MessageRow) -> None:
        """Go on with the next message."""
        fields = (
            *(message.role, message.content, message.timestamp, message.name, message.tool_call_id),
            *(message.tool_calls, message.token_count, message.metadata, message.extra),
        )
        self._hash.update(msgspec.msgpack.encode(fields))

    def digest(self) -> bytes:
        """The checksum of all that was added."""
        return self._hash.digest()


def count_only(source: Source, report: Report, progress: Progress) -> None:
    """Read all of a source for its report, and store nothing. Raises SourceUnreadable."""
    total = source.count_sessions()
    for session in source.sessions(report.note):
        report.read.add(session.command, sum(1 for _ in session.messages))
        progress("reading", report.read.sessions, total)
    source.note_leftovers(report.note)


def loads(source: Source, report: Report) -> Iterator[list[ImportCommand]]:
    """All of a source as commands, in loads; what is read is counted in the report."""
    load: list[ImportCommand] = []
    size = 0
    for session in source.sessions(report.note):
        messages = 0
        for command in _commands(session):
            load.append(command)
            size += weight(command)
            messages += len(command.messages)
            if len(load) >= LOAD_COMMANDS or size >= LOAD_BYTES:
                yield load
                load, size = [], 0
        report.read.add(session.command, messages)
    if load:
        yield load


def _commands(session: SourceSession) -> Iterator[ImportCommand]:
    """The commands that store a session: nearly always one."""
    portions = _portions(session.messages)
    first = next(portions, ())
    after = 0
    command: ImportCommand = structs.replace(session.command, messages=first)
    for portion in portions:
        yield command
        after += len(command.messages)
        command = ImportMessages(session.command.key, session.command.source, after, portion, is_whole=False)
    yield structs.replace(command, is_whole=True)


def _portions(messages: Iterator[NewMessage]) -> Iterator[tuple[NewMessage, ...]]:
    portion: list[NewMessage] = []
    size = 0
    for message in messages:
        portion.append(message)
        size += message.size
        if len(portion) >= PORTION_MESSAGES or size >= PORTION_BYTES:
            yield tuple(portion)
            portion, size = [], 0
    if portion:
        yield tuple(portion)


def checked(source: Source) -> Iterator[Sequence[Checked]]:
    """The sessions of a source with the checksums of their messages, some at a time."""
    portion: list[Checked] = []
    for session in source.sessions(lambda _: None):
        checksum, count = Checksum(), 0
        for message in session.messages:
            checksum.add(message)
            count += 1
        portion.append(Checked(session.command, count, checksum.digest()))
        if len(portion) == COMPARED:
            yield portion
            portion = []
    if portion:
        yield portion


async def in_thread(items: Iterator[T]) -> AsyncIterator[T]:
    """The items of an iterator, which reads the next one in a thread while the last one is worked on."""
    reading = asyncio.create_task(asyncio.to_thread(next, items, None))
    try:
        while (item := await reading) is not None:
            reading = asyncio.create_task(asyncio.to_thread(next, items, None))
            yield item
    finally:
        # The source is closed afterwards, which must not happen while a thread reads it.
        with suppress(Exception):
            await asyncio.wait([reading])
