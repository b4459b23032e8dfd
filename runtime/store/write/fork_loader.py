"""Loads what planning a fork needs: the state of its source, and how much is left to copy."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from runtime.db.database import Transaction
from runtime.models import MAX_SEQ
from runtime.store.records import LARGE_TEXT, Details, Head, SessionKey, bytes_of, details_from
from runtime.store.validation import json_list
from runtime.store.write.batch import ForkPoint, PlanInput
from runtime.store.write.commands import AppendMessages, CreateSession, HiddenCopy, Request
from runtime.store.write.erasing import AtOnce
from runtime.store.write.fork_commands import ForkSession

BEGINNING = datetime(1, 1, 1, tzinfo=UTC)


def source_of(request: Request) -> SessionKey:
    """The session that a request copies; its own if it is no fork."""
    command = request.command
    return SessionKey(request.key.owner, command.source) if isinstance(command, ForkSession) else request.key


async def load_forks(
    tx: Transaction, requests: Sequence[Request], stored: PlanInput, at_once: AtOnce
) -> None:
    """Load the points at which sessions are forked, of as many as the transaction may copy.

    What is stored is copied. So a fork is left for another batch if this one may remove messages of its
    source, hand the source over, or change the fork.
    """
    others = [r for r in requests if not isinstance(r.command, ForkSession | CreateSession)]
    changed = {request.key for request in others}
    unfit = {request.key for request in others if not isinstance(request.command, AppendMessages)}
    loader = _ForkLoader(tx, stored, at_once)
    for request in requests:
        if isinstance(request.command, ForkSession):
            if source_of(request) in unfit or request.key in changed:
                stored.contested.add(request.key)
            elif (head := stored.heads.get(source_of(request))) is not None:
                await loader.load(request, request.command, head)


class _ForkLoader:
    """Loads points while the batch has room for the rows that their forks copy."""

    def __init__(self, tx: Transaction, stored: PlanInput, at_once: AtOnce) -> None:
        self._tx = tx
        self._stored = stored
        self._rows, self._bytes = at_once.rows, at_once.bytes
        self._is_first = True

    async def load(self, request: Request, command: ForkSession, head: Head) -> None:
        copy = await self._valid(request.copy, head)
        start = 0 if copy is None else copy.through
        through = head.last_seq if command.after is None else min(command.after, head.last_seq)
        span = (start, max(start, through), head.cut_after, head.cut_through)
        [row] = await self._tx.fetch("sum_messages_after", head.id, *span, self._rows + 1)
        details = None
        if row["message_count"] <= self._rows and row["size"] <= self._bytes:
            details = await self._load_details(head)
        if details is None or details.metadata is None or details.context_metadata is None:
            # With the batch to itself it may have room.
            if not self._is_first:
                self._stored.contested.add(request.key)
            return
        self._is_first = False
        self._rows -= row["message_count"]
        self._bytes -= row["size"] + bytes_of(details.metadata, details.context_metadata)
        n, switches, agent = details.last_switch, details.switch_count, details.current_agent
        if command.after is not None:
            n, switches, agent = await self._find_agent(head, command.after, agent)
        self._stored.forks[request.key] = ForkPoint(
            source=head.id,
            after=command.after,
            start=start,
            session_db_id=None if copy is None else copy.session_db_id,
            message_count=row["message_count"] + (0 if copy is None else copy.message_count),
            token_total=row["token_total"] + (0 if copy is None else copy.token_total),
            agent=agent,
            last_switch=n,
            switch_count=switches,
        )

    async def _valid(self, copy: HiddenCopy | None, head: Head) -> HiddenCopy | None:
        """The copy that was made before, if it still is one of this session."""
        if copy is None or (copy.source_db_id, copy.cut_version) != (head.id, head.cut_version):
            return None
        found = await self._tx.fetch("lock_unfinished_forks", json_list([copy.session_db_id]))
        return copy if found else None

    async def _load_details(self, head: Head) -> Details:
        largest = MAX_SEQ if self._is_first else LARGE_TEXT
        [row] = await self._tx.fetch("list_details", json_list([head.id]), largest)
        self._stored.details[head.id] = details = details_from(row)
        return details

    async def _find_agent(self, head: Head, after: int, current: str) -> tuple[int, int, str]:
        """The last switch up to the time of a message, the count of switches, and the agent then."""
        times = await self._tx.fetch("find_last_message_time", head.id, after)
        until = times[0]["timestamp"] if times else BEGINNING
        [(n, switches, agent)] = await self._tx.fetch("find_switches_until", head.id, until)
        return n, switches, agent or current
