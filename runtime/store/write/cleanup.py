"""Deletes idle sessions, erases those deleted long ago, and deletes rows that are no longer needed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

from runtime.db.database import Database, Row
from runtime.models import Cleaned
from runtime.store.records import SessionKey
from runtime.store.steady_clock import SteadyClock
from runtime.store.write.commands import NO_SESSION, DeleteSession, ForgetOld, Request
from runtime.store.write.eraser import Eraser
from runtime.store.write.outcomes import SessionDeleted
from runtime.store.write.writer import Writer

# The most sessions that are deleted in a transaction.
CHUNK = 100
# How long an idempotency key is kept, and the row of a dead writer.
KEPT = timedelta(days=1)

DAY = 86_400.0
BEGINNING = datetime(1, 1, 1, tzinfo=UTC)


class Cleanup:
    """Cleans up for all owners, in small transactions. Events of turns are kept for `events_kept` seconds."""

    def __init__(
        self,
        database: Database,
        writer: Writer,
        eraser: Eraser,
        clock: Callable[[], datetime],
        events_kept: float,
    ) -> None:
        self._database = database
        self._writer = writer
        self._eraser = eraser
        self._clock = clock
        self._steady = SteadyClock(clock)
        self._events_kept = events_kept

    async def clean(self, max_age_hours: float, hard_delete_after_days: float) -> Cleaned:
        """Delete idle sessions, erase those deleted long ago, and run `forget_old`.

        Sessions are deleted right after a start, too, because a deleted session can be restored.
        """
        # By one reading: what the first step deletes is not erased by the second.
        steady = self._steady.read()
        soft = await self._delete_idle(_before(steady, max_age_hours * 3600))
        hard = await self._erase_deleted(_before(steady, hard_delete_after_days * DAY))
        await self._eraser.wait_for_all()
        await self.forget_old()
        return Cleaned(soft_deleted=soft, hard_deleted=hard)

    async def count(self, max_age_hours: float, hard_delete_after_days: float) -> Cleaned:
        """How many sessions `clean` would delete and erase now."""
        steady = self._steady.read()
        idle_since = _before(steady, max_age_hours * 3600)
        deleted_since = _before(steady, hard_delete_after_days * DAY)
        [idle] = await self._database.fetch("count_idle_sessions", idle_since)
        [deleted] = await self._database.fetch("count_erasable_sessions", deleted_since)
        return Cleaned(soft_deleted=idle["total"], hard_deleted=deleted["total"])

    async def retain(self, idle_days: float | None, deleted_days: float | None) -> Cleaned:
        """Delete what is idle for so many days, and erase what was deleted so long ago; None keeps it.

        Nobody asked for it just now, so nothing is deleted until the clock has been observed for an hour.
        """
        steady = self._steady.read()
        if not self._steady.settled:
            return Cleaned(soft_deleted=0, hard_deleted=0)
        soft = hard = 0
        if idle_days is not None:
            soft = await self._delete_idle(_before(steady, idle_days * DAY))
        if deleted_days is not None:
            hard = await self._erase_deleted(_before(steady, deleted_days * DAY))
        return Cleaned(soft_deleted=soft, hard_deleted=hard)

    async def _delete_idle(self, since: datetime) -> int:
        return await self._delete(
            # A page starts after the owner that the previous one ended with.
            lambda owner: self._database.fetch("list_idle_sessions", since, owner, CHUNK),
            lambda key: DeleteSession(key, idle_since=since),
        )

    async def _erase_deleted(self, since: datetime) -> int:
        return await self._delete(
            lambda _: self._database.fetch("list_erasable_sessions", since, CHUNK),
            lambda key: DeleteSession(key, hard=True, deleted_since=since),
        )

    async def _delete(
        self,
        list_page: Callable[[str], Awaitable[Sequence[Row]]],
        command: Callable[[SessionKey], DeleteSession],
    ) -> int:
        """Delete listed sessions page by page, until a page is empty or none of it is deleted."""
        total, owner, now = 0, "", self._clock()
        while rows := await list_page(owner):
            owner = rows[-1]["owner"]
            keys = [SessionKey(row["owner"], row["session_id"]) for row in rows]
            requests = [Request(command(key), key, now) for key in keys]
            outcomes = await asyncio.gather(*map(self._writer.submit, requests))
            deleted = sum(isinstance(outcome, SessionDeleted) and outcome.deleted for outcome in outcomes)
            if not deleted:
                break
            total += deleted
        return total

    async def forget_old(self) -> None:
        """Delete idempotency keys older than a day, and events of turns that ended long ago.

        Neither can be restored, so nothing is deleted until the clock has been observed for an hour.
        """
        steady = self._steady.read()
        if not self._steady.settled:
            return
        command = ForgetOld(NO_SESSION, steady - KEPT, _before(steady, self._events_kept))
        while await self._is_old(command):
            await self._writer.submit(Request(command, NO_SESSION, self._clock()))

    async def _is_old(self, command: ForgetOld) -> bool:
        keys = await self._database.fetch("find_oldest_idempotency_key")
        turns = await self._database.fetch("find_oldest_kept_turn")
        return any(row["created_at"] < command.before for row in keys) or any(
            row["ended_at"] < command.events_before for row in turns
        )


def _before(now: datetime, seconds: float) -> datetime:
    try:
        return now - timedelta(seconds=seconds)
    except OverflowError:
        return BEGINNING
