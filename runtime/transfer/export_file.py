"""An export as a source: a file of JSON Lines, read from its beginning each time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from msgspec import UNSET

from runtime.errors import InvalidInput, SourceUnreadable
from runtime.store.messages import NewMessage
from runtime.store.write.commands import ImportSession
from runtime.transfer.compressed import GZIP, ZSTD, damage_errors, open_to_read
from runtime.transfer.export_check import PARTS, ExportChecker, Record
from runtime.transfer.export_parsing import (
    kind_of,
    message_of,
    parse_line,
    parse_part,
    session_command,
    with_parts,
)
from runtime.transfer.source import Finding, Note, SourceSession

# The longest line, in bytes: many times the largest body that a server takes by default.
MAX_LINE = 64 * 1024 * 1024


def is_export(path: Path) -> bool:
    """Whether a file begins as an export does, or as a compressed one; not where it cannot be read."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError:
        return False
    return start.startswith((GZIP, ZSTD)) or start.lstrip()[:1] == b"{"


class ExportFile:
    """The sessions of an export, which are to belong to `owner` where that is not empty.

    It is read through and checked at once. Raises SourceUnreadable, which names the line, for a file that is
    no whole export; with `allow_cut` one without its end is read up to its last whole session.
    """

    def __init__(self, path: Path, owner: str, *, allow_cut: bool = False) -> None:
        self._path = path
        self._owner = owner
        self._checker = checker = ExportChecker()
        digest = hashlib.blake2b(digest_size=8)
        for record in self._records(digest):
            try:
                checker.add(record)
            except InvalidInput as error:
                raise _unreadable(record.number, error) from None
        if not checker.is_ended and not allow_cut:
            raise SourceUnreadable(
                "is cut off: the last line of an export, with its end, is missing; export it again, or "
                "import the sessions that are whole with --merge"
            )
        if owner and len(checker.owners) > 1:
            raise SourceUnreadable("holds sessions of several owners: leave --owner out")
        self.name = f"export {digest.hexdigest()}"
        self.description = f"JSON Lines of {checker.exported_at:%Y-%m-%d %H:%M:%S} UTC in {path}"

    def count_sessions(self) -> int:
        """How many whole sessions it has."""
        return self._checker.sessions

    def sessions(self, note: Note) -> Iterator[SourceSession]:
        """Its whole sessions, in the order of the file."""
        records = self._records()
        record = next(records, None)
        for _ in range(self._checker.sessions):
            while record is not None and record.kind != "session":
                record = next(records, None)
            if record is None:
                raise SourceUnreadable("has changed since it was checked")
            command, record = self._command(record, records)
            messages = _Messages(records, record)
            yield SourceSession(command, messages)
            record = messages.following

    def note_leftovers(self, note: Note) -> None:
        """Note that the end is missing."""
        if not self._checker.is_ended:
            note(Finding("cut", "the session that the file ends in, and all after it"))

    def _command(self, record: Record, records: Iterator[Record]) -> tuple[ImportSession, Record | None]:
        """The command of a session with all of its parts, and the record after those that follow it."""
        at = self._checker.exported_at
        lines = []
        following = next(records, None)
        while following is not None and following.kind in PARTS:
            lines.append(following.line)
            following = next(records, None)
        lines += self._checker.late.get(record.number, ())
        command = session_command(record.line, self.name, self._owner)
        return with_parts(command, [parse_part(line, at) for line in lines]), following

    def _records(self, digest: hashlib.blake2b | None = None) -> Iterator[Record]:
        """The lines, parsed, up to the end of the file; a last line that is cut off is left out."""
        for number, line in enumerate(self._lines(), 1):
            try:
                parsed = parse_line(line)
                record = Record(number, kind_of(parsed), parsed)
            except InvalidInput as error:
                if not line.endswith(b"\n"):
                    return
                raise _unreadable(number, error) from None
            if digest is not None:
                digest.update(line)
            yield record

    def _lines(self) -> Iterator[bytes]:
        number = 0
        try:
            with open_to_read(self._path) as file:
                while line := file.readline(MAX_LINE + 1):
                    number += 1
                    if len(line) > MAX_LINE:
                        raise SourceUnreadable(f"line {number}: is longer than {MAX_LINE:,} bytes")
                    yield line
        except EOFError:
            return  # Compressed, and cut off.
        except damage_errors() as error:
            raise SourceUnreadable(f"line {number + 1}: cannot be read: {error}") from error


class _Messages:
    """The messages of a session as they are taken, and then the record that follows them."""

    def __init__(self, records: Iterator[Record], first: Record | None) -> None:
        self._records = records
        self.following = first

    def __iter__(self) -> Iterator[NewMessage]:
        return self

    def __next__(self) -> NewMessage:
        # Parts among the messages were taken with the session.
        while self.following is not None and self.following.kind in PARTS:
            self.following = next(self._records, None)
        record = self.following
        if record is None or record.line.message is UNSET:
            raise StopIteration
        self.following = next(self._records, None)
        return message_of(record.line.message)


def _unreadable(number: int, error: InvalidInput) -> SourceUnreadable:
    return SourceUnreadable(f"line {number}: {error}")
