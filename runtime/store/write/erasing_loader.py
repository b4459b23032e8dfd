"""Measures the rows to erase, to find how many fit into a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from runtime.db.database import Transaction
from runtime.models import MAX_SEQ
from runtime.store.records import Head, head_from
from runtime.store.validation import json_list
from runtime.store.write.batch import PlanInput
from runtime.store.write.commands import EraseRows, Request, is_final
from runtime.store.write.erasing import AtOnce, Portion

# A large row counts as one more row for each of these: SQLite reads all of it to erase it.
BYTES_OF_A_ROW = 8192
# The most sessions of a portion, and the most of a batch that are checked for being small.
SESSIONS = 20
WEIGHED_SESSIONS = 100


class _Table(NamedTuple):
    """How the rows of a table are listed and erased: the statements, the first key, the rows of a page.

    A page may be large in bytes: SQLite reads an event to find its size.
    """

    listing: str
    erasing: str
    start: tuple[object, ...]
    page: int


# Referring tables first, so that no cascade finds any rows.
_TABLES = (
    _Table("list_turn_events_to_erase", "erase_turn_events", (0, 0), 20),
    _Table("list_agent_switches_to_erase", "erase_agent_switches", (0,), 100),
    _Table("list_approvals_to_erase", "erase_approvals", ("",), 100),
    _Table("list_turns_to_erase", "erase_turns", (0,), 500),
)
_MESSAGES_PAGE = 500


class _Budget:
    """The rows that a portion may still take; a large row counts as several. The last row may exceed it."""

    def __init__(self, rows: int) -> None:
        self.left = rows
        self.taken = 0

    def take(self, size: int) -> bool:
        fits = self.left > 0
        if fits:
            self.left -= 1 + size // BYTES_OF_A_ROW
            self.taken += 1
        return fits


async def load_portions(tx: Transaction, requests: Sequence[Request], stored: PlanInput) -> None:
    """Load what the next portion erases. On Postgres its sessions are locked; locked ones are skipped."""
    rows = [request.command.rows for request in requests if isinstance(request.command, EraseRows)]
    if not rows:
        return
    budget = _Budget(max(rows))
    for session_db_id, last_seq in await tx.fetch("lock_released_sessions", SESSIONS):
        stored.portions.append(await _measure_released(tx, session_db_id, last_seq, budget))
        if not stored.portions[-1].finished:
            return
    for row in await tx.fetch("lock_cut_sessions", SESSIONS):
        head = head_from(row)
        stored.heads.setdefault(head.key, head)
        stored.portions.append(await _measure_cut(tx, head, budget))
        if not stored.portions[-1].finished:
            return


async def _measure_released(tx: Transaction, session_db_id: int, after: int, budget: _Budget) -> Portion:
    before = budget.taken
    erased: dict[str, tuple[object, ...]] = {}
    after, through, finished = await _fit_messages(tx, session_db_id, after, MAX_SEQ, budget)
    if through > after:
        erased["erase_messages"] = (session_db_id, after, through)
    for table in _TABLES:
        if finished:
            key, finished = await _fit(tx, table, session_db_id, budget)
            if key != table.start:
                erased[table.erasing] = (session_db_id, *key)
    return Portion(session_db_id, None, erased, budget.taken - before, after, finished)


async def _measure_cut(tx: Transaction, head: Head, budget: _Budget) -> Portion:
    before = budget.taken
    after, through, finished = await _fit_messages(tx, head.id, head.cut_after, head.cut_through, budget)
    erased: dict[str, tuple[object, ...]] = {}
    if through > after:
        erased["erase_messages"] = (head.id, after, through)
    return Portion(head.id, head, erased, budget.taken - before, after, finished)


async def _fit_messages(
    tx: Transaction, session_db_id: int, after: int, end: int, budget: _Budget
) -> tuple[int, int, bool]:
    """The range of messages that fit, after one number through another, and whether none is left."""
    through, started = after, False
    while True:
        limit = min(_MESSAGES_PAGE, max(budget.left, 0) + 1)
        page = await tx.fetch("list_messages_to_erase", session_db_id, through, limit)
        for seq, size in page:
            if seq > end or not budget.take(size):
                return after, through, seq > end
            # The rows before the first one are erased already.
            after, through, started = after if started else seq - 1, seq, True
        if len(page) < limit:
            return after, through, True


async def _fit(
    tx: Transaction, table: _Table, session_db_id: int, budget: _Budget
) -> tuple[tuple[object, ...], bool]:
    """The key of the last row that fits, and whether it is the last of all."""
    key = table.start
    while True:
        page = await tx.fetch(table.listing, session_db_id, *key, table.page)
        for *row, size in page:
            if not budget.take(size):
                return key, False
            key = tuple(row)
        if len(page) < table.page:
            return key, True


async def load_small_sessions(
    tx: Transaction, requests: Sequence[Request], stored: PlanInput, at_once: AtOnce
) -> None:
    """Find the sessions to delete for good that are small enough for this transaction."""
    erasing = {request.key for request in requests if is_final(request.command)}
    heads = [stored.heads[key] for key in sorted(erasing & stored.heads.keys())]
    ids = [head.id for head in heads if head.message_count <= at_once.rows][:WEIGHED_SESSIONS]
    if ids:
        rows_left, bytes_left = at_once.rows, at_once.bytes
        for id, rows, size in await tx.fetch("weigh_sessions", json_list(ids), rows_left + 1):
            if rows <= rows_left and size <= bytes_left:
                stored.small_sessions.add(id)
                rows_left, bytes_left = rows_left - rows, bytes_left - size
