"""Deletes sessions by their age, as the settings ask, in a background task."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable

from msgspec import Struct

from runtime.db.database import Database
from runtime.errors import AgentRuntimeError, DatabaseError
from runtime.metrics import Metrics
from runtime.models import Cleaned
from runtime.store.write.cleanup import Cleanup

logger = logging.getLogger("agent_runtime.retention")

# Seconds between two looks.
LOOK_SECONDS = 600.0
# Seconds that giving back the lock may delay a shutdown.
UNLOCK_SECONDS = 1.0

NOTHING = Cleaned(soft_deleted=0, hard_deleted=0)


class RetentionPeriods(Struct, frozen=True):
    """Days that an idle session, and a deleted one, is kept; None: for ever."""

    idle_days: float | None
    deleted_days: float | None


class Retention:
    """Keeps the periods of the settings. Of several instances one deletes at a time, and the others go on."""

    def __init__(
        self, database: Database, cleanup: Cleanup, periods: RetentionPeriods, metrics: Metrics
    ) -> None:
        self._database = database
        self._cleanup = cleanup
        self._periods = periods
        self._deleted = metrics.retention_sessions

    @contextlib.asynccontextmanager
    async def kept(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> AsyncIterator[None]:
        """Look at once and then every ten minutes, inside the `with` block. Does nothing without a period.

        In the first hour after a start nothing is deleted: the clock may be wrong.
        """
        if self._periods == RetentionPeriods(None, None):
            yield
            return
        periods = [
            "ever" if days is None else f"{days:g} days"
            for days in (self._periods.idle_days, self._periods.deleted_days)
        ]
        text = "an idle session is kept for %s, a deleted one for %s; nothing is deleted in the first hour"
        logger.info(text, *periods)
        task = asyncio.create_task(self._run(sleep), name="retention")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        while True:
            try:
                await self.look()
            except AgentRuntimeError as error:
                # What is committed stays deleted; the next look goes on.
                logger.warning("deleting by age failed and is tried again: %s", error)
            await sleep(LOOK_SECONDS * random.uniform(0.5, 1.0))

    async def look(self) -> Cleaned:
        """Delete what is too old now, unless another instance does; return how much."""
        if not await self._ask("try_lock_retention"):
            return NOTHING
        try:
            cleaned = await self._cleanup.retain(self._periods.idle_days, self._periods.deleted_days)
        finally:
            # A lock that is not given back ends with its connection, which a shutdown closes.
            with contextlib.suppress(DatabaseError, TimeoutError):
                async with asyncio.timeout(UNLOCK_SECONDS):
                    await self._ask("unlock_retention")
        self._deleted.labels(action="deleted").inc(cleaned.soft_deleted)
        self._deleted.labels(action="erased").inc(cleaned.hard_deleted)
        if cleaned != NOTHING:
            counts = {"soft_deleted": cleaned.soft_deleted, "hard_deleted": cleaned.hard_deleted}
            text = "deleted %d idle sessions and erased %d deleted ones by age"
            logger.info(text, *counts.values(), extra=counts)
        return cleaned

    async def _ask(self, statement: str) -> bool:
        # On the connection that writes: there is no other that is sure to be the same one later.
        async with self._database.transaction() as tx:
            [[answer]] = await tx.fetch(statement)
        return bool(answer)
