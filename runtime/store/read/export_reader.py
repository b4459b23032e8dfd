"""Reads sessions for an export, within one snapshot, page by page."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import datetime

from msgspec import Struct

from runtime.db.database import Database, Row, Snapshot
from runtime.errors import SessionNotFound
from runtime.models import MAX_SEQ
from runtime.store import export_lines
from runtime.store.paging import CHUNK_BYTES, Listing, fetch_page
from runtime.store.read.message_pages import AFTER
from runtime.store.read.reader import APPROVALS, BEGINNING_OF_TIME
from runtime.store.records import MessageRow, SessionKey, SwitchRow, approval_row_from

Lines = tuple[str, list[bytes]]

# How many rows are read at a time, within CHUNK_BYTES.
PAGE_ROWS = 500

SESSIONS = Listing("list_sessions_to_export", "measure_sessions_to_export")
SWITCHES = Listing("list_switches_to_export", "measure_switches_to_export")
TURNS = Listing("list_turns_to_export", "measure_turns_to_export")


class ExportScope(Struct, frozen=True):
    """What is exported: one session of an owner, all of an owner, or everything."""

    owner: str | None = None
    session_id: str | None = None

    @property
    def key(self) -> SessionKey | None:
        """The key of the one session; None where there may be several."""
        return None if self.session_id is None else SessionKey(self.owner or "", self.session_id)


async def read_export(database: Database, scope: ExportScope, at: datetime) -> AsyncGenerator[bytes, None]:
    """An export in pieces of whole lines, all of one moment. `at` is the time that its header gives.

    Deleted sessions are among those of an owner. The snapshot is open until the last piece is taken. Raises
    SessionNotFound where the one session is missing or deleted, and DatabaseUnavailable.
    """
    async with database.snapshot() as snapshot, aclosing(_read(snapshot, scope)) as pages:
        lines = [export_lines.header_line(at)]
        size = sessions = messages = 0
        async for kind, page in pages:
            sessions += kind == "session"
            messages += len(page) if kind == "message" else 0
            lines += page
            size += sum(map(len, page))
            if size >= CHUNK_BYTES:
                yield b"".join(lines)
                lines, size = [], 0
        lines.append(export_lines.end_line(sessions, messages))
        yield b"".join(lines)


async def _read(snapshot: Snapshot, scope: ExportScope) -> AsyncGenerator[Lines, None]:
    """The lines of each session in pages, each of one kind."""
    async for session in _sessions(snapshot, scope):
        id = session["id"]
        yield "session", [export_lines.session_line(session)]
        if session["has_switches"]:
            async for rows in _pages(snapshot, SWITCHES, (id,), (0,), ("n",)):
                yield "switch", [export_lines.switch_line(SwitchRow(*row)) for row in rows]
        if session["has_approvals"]:
            first = (BEGINNING_OF_TIME, "")
            async for rows in _pages(snapshot, APPROVALS, (id,), first, ("created_at", "call_id")):
                yield "approval", [export_lines.approval_line(approval_row_from(row)) for row in rows]
        if session["has_turns"]:
            async for rows in _pages(snapshot, TURNS, (id,), (0,), ("n",)):
                yield "turn", [export_lines.turn_line(row) for row in rows]
        if session["message_count"]:
            async for rows in _pages(snapshot, AFTER, (id,), (0,), ("seq",), (MAX_SEQ, None)):
                yield "message", [export_lines.message_line(MessageRow(*row)) for row in rows]


async def _sessions(snapshot: Snapshot, scope: ExportScope) -> AsyncGenerator[Row, None]:
    """The sessions in scope, in the order of their keys."""
    if scope.key is not None:
        rows = await snapshot.fetch("find_session_to_export", scope.key.owner, scope.key.session_id)
        if not rows or rows[0]["deleted_at"] is not None:
            raise SessionNotFound(scope.key.session_id, deleted=bool(rows))
        yield rows[0]
        return
    first = (scope.owner or "", "")
    async for rows in _pages(snapshot, SESSIONS, (), first, ("owner", "session_id")):
        for row in rows:
            if scope.owner is not None and row["owner"] != scope.owner:
                return
            yield row


async def _pages(
    snapshot: Snapshot,
    listing: Listing,
    of: tuple[object, ...],
    first: tuple[object, ...],
    position: Sequence[str],
    rest: tuple[object, ...] = (),
) -> AsyncGenerator[Sequence[Row], None]:
    """The pages of a listing `of` something, behind a first position.

    `position` names the columns that the next page goes by; `rest` are the parameters after it.
    """
    more = True
    while more:
        rows, more = await fetch_page(snapshot, listing, (*of, *first, *rest), PAGE_ROWS, CHUNK_BYTES)
        if rows:
            first = tuple(rows[-1][name] for name in position)
            yield rows
        # Free this page before the next one is read.
        del rows
