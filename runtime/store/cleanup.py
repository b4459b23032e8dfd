"""Deletes what is idle and erases what was deleted long ago, a little at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

from runtime.db.database import Database, Row
from runtime.models import Cleaned
from runtime.store.commands import DeleteSession, ForgetOld, Request, SessionDeleted, SessionKey
from runtime.store.eraser import Eraser
from runtime.store.steady_clock import SteadyClock
from runtime.store.writer import Writer

# How many sessions share a transaction.
CHUNK = 100
# How long an idempotency key is kept, and the row of a writer that is silent.
KEPT = timedelta(days=1)

BEGINNING = datetime(1, 1, 1, tzinfo=UTC)


async def clean(
    database: Database,
    writer: Writer,
    eraser: Eraser,
    now: datetime,
    clock: SteadyClock,
    max_age_hours: float,
    hard_delete_after_days: float,
    events_kept: float,
) -> Cleaned:
    """Clean up sessions of every owner, and forget what is old.

    Sessions are deleted also by a process that has just started, such as the command: they can be restored.
    """
    steady = clock.look()
    idle_since = _before(steady, max_age_hours * 3600)
    deleted_since = _before(steady, hard_delete_after_days * 86_400)
    sweep = _Sweep(writer, now)
    soft = await sweep.delete(
        # On from the owner that the last page ended with.
        lambda owner: database.fetch("list_idle_sessions", idle_since, owner, CHUNK),
        lambda key: DeleteSession(key, idle_since=idle_since),
    )
    hard = await sweep.delete(
        lambda _: database.fetch("list_erasable_sessions", deleted_since, CHUNK),
        lambda key: DeleteSession(key, hard=True, deleted_since=deleted_since),
    )
    await eraser.wait_for_all()
    await forget_old(database, writer, now, clock, events_kept)
    return Cleaned(soft_deleted=soft, hard_deleted=hard)


async def forget_old(
    database: Database, writer: Writer, now: datetime, clock: SteadyClock, events_kept: float
) -> None:
    """Forget idempotency keys older than a day, and the events of turns that ended `events_kept` seconds
    ago or earlier.

    Neither can be restored: a process that has just started forgets nothing until its clock has been steady
    for a while.
    """
    steady = clock.look()
    if not clock.settled:
        return
    nobody = SessionKey("", "")
    command = ForgetOld(nobody, steady - KEPT, _before(steady, events_kept))
    while await _is_old(database, command):
        await writer.submit(Request(command, nobody, now))


async def _is_old(database: Database, command: ForgetOld) -> bool:
    keys = await database.fetch("find_oldest_idempotency_key")
    turns = await database.fetch("find_oldest_kept_turn")
    return any(row["created_at"] < command.before for row in keys) or any(
        row["ended_at"] < command.events_before for row in turns
    )


def _before(now: datetime, seconds: float) -> datetime:
    try:
        return now - timedelta(seconds=seconds)
    except OverflowError:
        return BEGINNING


class _Sweep:
    def __init__(self, writer: Writer, now: datetime) -> None:
        self._writer = writer
        self._now = now

    async def delete(
        self,
        list_page: Callable[[str], Awaitable[Sequence[Row]]],
        command: Callable[[SessionKey], DeleteSession],
    ) -> int:
        """Delete what is listed behind an owner, chunk by chunk, until nothing is listed or nothing goes."""
        total, owner = 0, ""
        while rows := await list_page(owner):
            owner = rows[-1]["owner"]
            keys = [SessionKey(row["owner"], row["session_id"]) for row in rows]
            requests = [Request(command(key), key, self._now) for key in keys]
            outcomes = await asyncio.gather(*map(self._writer.submit, requests))
            gone = sum(isinstance(outcome, SessionDeleted) and outcome.deleted for outcome in outcomes)
            if not gone:
                break
            total += gone
        return total
