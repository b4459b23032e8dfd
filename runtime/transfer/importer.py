"""Imports a source into a store: in loads, each of which may be repeated, and then compares the two."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from msgspec import structs

from runtime.errors import RequestError, TargetNotEmpty
from runtime.store.messages import NewMessage
from runtime.store.store import Store
from runtime.store.write.commands import (
    COMMAND_OVERHEAD,
    ImportMessages,
    ImportSession,
    NumberedMessage,
)
from runtime.store.write.outcomes import Imported
from runtime.transfer.comparison import compare
from runtime.transfer.reading import Progress, in_thread
from runtime.transfer.report import Report
from runtime.transfer.source import Finding, Source, SourceSession
from runtime.transfer.sources import open_source

# A load is stored together: so many commands or bytes. A command has so many messages, or bytes of them.
LOAD_COMMANDS, LOAD_BYTES = 1000, 4 * 1024 * 1024
PORTION_MESSAGES, PORTION_BYTES = 500, 1024 * 1024

ImportCommand = ImportSession | ImportMessages


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
        await compare(self._source, self._store, self._report, self._progress)

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
            self._report.note_difference(f"{name}: could not be stored: {result}")
        elif isinstance(command, ImportSession):
            self._report.created += result.created
            if result.mark is None or result.mark.source != self._source.name:
                origin = ""
                if result.mark is not None:
                    part = "" if result.mark.whole_version else " in part"
                    origin = f", imported{part} from {result.mark.source}"
                self._report.note(Finding("kept", name + origin, is_lost=False))
            else:
                self._report.continued += result.was_continued


async def import_file(store: Store, path: Path, *, owner: str = "", merge: bool = False) -> Report:
    """Import an export, as sessions of `owner` where that is not empty; return what was done.

    With `merge` the store may hold other sessions, and the file may be cut off. Raises what `Importer.run`
    raises, before anything is stored SourceUnreadable with the number of a wrong line.
    """
    with ExitStack() as stack:
        opening = open_source(str(path), owner, None, allow_cut=merge)
        source = await asyncio.to_thread(stack.enter_context, opening)
        report = Report(source.name, source.description, "this store")
        await Importer(source, store, report, lambda *_: None).run(merge=merge)
    return report


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
            size += COMMAND_OVERHEAD + sum([message.size for message in command.messages])
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
    given = session.command
    for portion in portions:
        yield command
        last = command.messages[-1]
        after = last.seq if isinstance(last, NumberedMessage) else after + len(command.messages)
        command = ImportMessages(
            given.key,
            given.source,
            after,
            portion,
            is_whole=False,
            version=given.version,
            last_seq=given.last_seq,
            deleted_at=given.deleted_at,
        )
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
