"""Checks an export, line by line, before anything of it is stored."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from typing import NamedTuple

from msgspec import UNSET, UnsetType

from runtime.errors import InvalidInput
from runtime.store.export_lines import (
    FORMAT,
    FORMAT_VERSION,
    ExportedSession,
    ExportEnd,
    ExportLine,
)
from runtime.transfer.export_parsing import message_of, parse_part, session_command

PARTS = ("switch", "approval", "turn")


class Record(NamedTuple):
    """A line, parsed, with its number, from 1, and its kind."""

    number: int
    kind: str
    line: ExportLine


class ExportChecker:
    """Takes the records of an export in their order, and counts its whole sessions.

    `late` has the parts that follow messages of their session, by the number of the session's line.
    """

    def __init__(self) -> None:
        self.exported_at = datetime.min.replace(tzinfo=UTC)
        self.sessions = self.messages = 0
        self.is_ended = False
        self.owners: set[str] = set()
        self.late: defaultdict[int, list[ExportLine]] = defaultdict(list)
        self._session: ExportedSession | UnsetType = UNSET
        self._session_number = 0
        self._count = self._last_seq = 0

    def add(self, record: Record) -> None:
        """Check the next record. Raises InvalidInput, which gives the place within its line."""
        number, kind, line = record
        if self.is_ended:
            raise InvalidInput("$", "Expected nothing after the end")
        if (number == 1) != (kind == "header"):
            header = f'{{"format": "{FORMAT}", "version": {FORMAT_VERSION}, "exported_at": …}}'
            raise InvalidInput("$", f"Expected {header} as the first line, and only there")
        if kind == "header":
            self._add_header(line)
        elif line.end is not UNSET:
            self._close_session()
            self._add_end(line.end)
        elif line.session is not UNSET:
            self._close_session()
            session_command(line, "", "")
            self._session, self._session_number = line.session, number
            self.owners.add(line.session.owner)
        elif self._session is UNSET:
            raise InvalidInput("$", f"Expected a session before a {kind}")
        elif line.message is not UNSET:
            seq = message_of(line.message).seq
            if seq <= self._last_seq:
                raise InvalidInput("$.message.seq", f"Expected a number above {self._last_seq}, got {seq}")
            self._count, self._last_seq = self._count + 1, seq
        else:
            parse_part(line, self.exported_at)
            if self._count:
                self.late[self._session_number].append(line)

    def _add_header(self, line: ExportLine) -> None:
        if line.format != FORMAT:
            raise InvalidInput("$.format", f"Expected {FORMAT!r}, got {line.format!r}")
        if line.version != FORMAT_VERSION:
            raise InvalidInput(
                "$.version", f"Expected {FORMAT_VERSION}: an older or a newer program has written it"
            )
        if line.exported_at is UNSET:
            raise InvalidInput("$.exported_at", "Expected the time of the export")
        self.exported_at = line.exported_at

    def _close_session(self) -> None:
        session = self._session
        if session is UNSET:
            return
        if self._count != session.message_count:
            raise InvalidInput(
                "$",
                f"Expected {session.message_count} messages in session {session.session_id!r} before this "
                f"line, found {self._count}",
            )
        if self._last_seq > session.last_seq:
            raise InvalidInput(
                "$",
                f"Expected no message above {session.last_seq}, the last_seq of session "
                f"{session.session_id!r}, found {self._last_seq}",
            )
        self.sessions += 1
        self.messages += self._count
        self._session = UNSET
        self._count = self._last_seq = 0

    def _add_end(self, end: ExportEnd) -> None:
        if (end.sessions, end.messages) != (self.sessions, self.messages):
            raise InvalidInput(
                "$.end",
                f"Expected {self.sessions} sessions and {self.messages} messages, which the file holds, got "
                f"{end.sessions} and {end.messages}",
            )
        self.is_ended = True
