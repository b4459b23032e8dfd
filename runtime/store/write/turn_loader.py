"""Loads the rows that planning commands about turns needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runtime.db.database import Transaction
from runtime.models import MAX_SEQ
from runtime.store.records import Head, SessionKey, turn_row_from
from runtime.store.validation import json_list
from runtime.store.write.batch import PlanInput, TailMessage
from runtime.store.write.commands import Command, DeleteSession, Request, TruncateMessages
from runtime.store.write.turn_commands import AdvanceTurn, InterruptTurn, StartTurn, StopTurn

_ABOUT_TURNS = (StartTurn, AdvanceTurn, StopTurn, InterruptTurn)


def _interrupts(command: Command) -> bool:
    """Whether a command may end a turn that another instance runs."""
    return isinstance(command, InterruptTurn) or (isinstance(command, DeleteSession) and not command.hard)


async def load_turns(tx: Transaction, requests: Sequence[Request], stored: PlanInput) -> None:
    """Load the last turns of sessions whose turns may change.

    Loads also the end of the history where a turn starts, and the text of a turn that may be interrupted.
    """
    about = [r for r in requests if isinstance(r.command, _ABOUT_TURNS) or _interrupts(r.command)]
    if ids := {head.id for request in about if (head := stored.heads.get(request.key)) is not None}:
        for row in await tx.fetch("list_last_turns", json_list(sorted(ids))):
            stored.turns[row["session_db_id"]] = turn_row_from(row)
    await _load_open_ends(tx, requests, stored)
    for request in about:
        head = stored.heads.get(request.key)
        if head is not None and _interrupts(request.command):
            turn = stored.turns.get(head.id)
            if turn is not None and turn.runs:
                rows = await tx.fetch("list_unfinished_text", head.id, turn.n)
                stored.unfinished[head.id] = "".join(row["data"] for row in rows)


async def _load_open_ends(tx: Transaction, requests: Sequence[Request], stored: PlanInput) -> None:
    starting = {request.key for request in requests if isinstance(request.command, StartTurn)}
    if not (ends := sorted(set(_ends(starting, requests, stored)))):
        return
    found: dict[int, dict[int, TailMessage]] = {}
    for row in await tx.fetch("list_open_ends", json_list(ends)):
        message = TailMessage(row["seq"], row["role"], row["tool_call_id"], row["tool_calls"])
        found.setdefault(row["session_db_id"], {})[message.seq] = message
    for session_db_id, messages in found.items():
        stored.open_ends[session_db_id] = [messages[seq] for seq in sorted(messages)]


def _ends(
    starting: set[SessionKey], requests: Sequence[Request], stored: PlanInput
) -> Iterable[tuple[int, int, int, int]]:
    """Where the histories may end when a turn starts: as stored, or after a cut in the batch (W3)."""
    for request in requests:
        head = stored.heads.get(request.key)
        if head is not None and request.key in starting:
            yield _end(head, MAX_SEQ)
            if isinstance(request.command, TruncateMessages):
                yield _end(head, request.command.after)


def _end(head: Head, seq: int) -> tuple[int, int, int, int]:
    # If nothing was added since a cut, skip the rows that it left to erase.
    if head.cut_after < min(seq, head.last_seq) <= head.cut_through:
        seq = head.cut_after
    return head.id, seq, head.cut_after, head.cut_through
