"""Erases rows that deletions and cuts have left, in portions, so that no other write waits long."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Sequence
from datetime import datetime

from runtime.db.database import Database
from runtime.errors import AgentRuntimeError, NotStored, ShuttingDown
from runtime.models import MAX_SEQ
from runtime.store.changes import CommittedChange
from runtime.store.records import SessionKey
from runtime.store.write.commands import NO_SESSION, EraseRows, Request
from runtime.store.write.fork_commands import AbandonForks
from runtime.store.write.outcomes import Erased
from runtime.store.write.writer import Writer

logger = logging.getLogger("agent_runtime.eraser")

# The intended duration of a portion's transaction, in seconds.
TARGET_SECONDS = 0.05
# Rows of the first portion, and the fewest and the most rows of any portion.
FIRST_ROWS, FEWEST_ROWS, MOST_ROWS = 100, 20, 5000
# Seconds between two looks for rows that other instances or an earlier run have left.
LOOK_SECONDS = 60.0
# Seconds to wait while other instances are erasing, and after a failure.
OTHERS_SECONDS, FAILURE_SECONDS = 0.2, 1.0

# The most unfinished forks that are looked at, and the seconds that other instances have to reconnect after
# the database was unavailable.
MOST_FORKS, RETURN_SECONDS = 1000, 10.0


class Eraser:
    """A task that submits one portion after the other to the writer while rows are left to erase.

    Callers can wait until all rows of a deleted session are erased. `on_erased` is called after each portion.
    """

    def __init__(
        self,
        database: Database,
        writer: Writer,
        clock: Callable[[], datetime],
        on_erased: Callable[[], None],
    ) -> None:
        self._on_erased = on_erased
        self._database = database
        self._writer = writer
        self._clock = clock
        self._rows = FIRST_ROWS
        self._due = asyncio.Event()
        self._left: dict[SessionKey, int] = {}
        self._abandoned: set[int] = set()
        self._progress = asyncio.Event()
        self._failures = 0
        self._failure = ""
        self._ending = False
        self._task = asyncio.create_task(self._run(), name="eraser")

    def note(self, changes: Sequence[CommittedChange]) -> None:
        """Erase the rows that these changes have left, soon."""
        for change in changes:
            if change.leaves_rows:
                self._due.set()
                if change.head is None and change.base is not None:
                    self._left[change.key] = change.base.id

    def abandon(self, session_db_id: int) -> None:
        """Erase the hidden session of a fork that was not made, soon."""
        self._abandoned.add(session_db_id)
        self._due.set()

    async def wait_for(self, key: SessionKey, timeout: float) -> None:
        """Wait until all rows of a deleted session are erased, for at most `timeout` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while key in self._left:
                    await self._progress.wait()

    async def wait_for_all(self) -> None:
        """Wait until the rows of all deleted sessions are erased, or erasing fails for now."""
        while self._left:
            await self._progress.wait()

    async def wait_for_released(self) -> None:
        """Wait until no rows are left of the sessions that are deleted for good by now, by any instance.

        Raises NotStored if erasing fails meanwhile, and ShuttingDown.
        """
        failures = self._failures
        through = await self._last_released(MAX_SEQ)
        while through is not None and await self._last_released(through) is not None:
            if self._failures != failures:
                raise NotStored(f"some rows are still to be erased: {self._failure}")
            if self._ending:
                raise ShuttingDown("the server is stopping; some rows are still to be erased")
            self._due.set()
            # Another instance may be the one that erases them.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(OTHERS_SECONDS):
                    await self._progress.wait()

    async def _last_released(self, through: int) -> int | None:
        [row] = await self._database.fetch("find_last_released_session", through)
        found: int | None = row["id"]
        return found

    def end_waits(self) -> None:
        """Let no caller wait any longer: the rows will be erased later."""
        self._ending = True
        self._forget_all()

    async def close(self) -> None:
        """Stop at once. The next start continues."""
        self._task.cancel()
        await asyncio.wait([self._task])
        self.end_waits()

    async def _run(self) -> None:
        while True:
            try:
                await self._erase_all()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS * random.uniform(0.5, 1.0)):
                        await self._due.wait()
            except ShuttingDown:
                return
            except AgentRuntimeError as error:
                # Committed portions stay erased. The failed one may have been too large.
                self._rows = max(1, self._rows // 4)
                self._failures += 1
                self._failure = str(error)
                self._forget_all()
                logger.warning("erasing failed and is retried in %g s: %s", FAILURE_SECONDS, error)
                await asyncio.sleep(FAILURE_SECONDS)

    async def _erase_all(self) -> None:
        while True:
            self._due.clear()
            await self._abandon_forks()
            [row] = await self._database.fetch("find_erasable")
            if not row["found"]:
                break
            found = False
            while seconds := await self._erase_portion():
                found = True
                # Leave half of the writer's time to other requests, if there are any.
                if len(self._writer.queue):
                    await asyncio.sleep(seconds)
            if not found:
                await asyncio.sleep(OTHERS_SECONDS)
        if not self._due.is_set():
            self._forget_all()

    async def _abandon_forks(self) -> None:
        """Let the hidden sessions be erased whose fork failed here, or whose instance is gone."""
        for row in await self._database.fetch("list_unfinished_forks", MOST_FORKS):
            if row["instance"] == self._database.instance or self._database.was_lost(RETURN_SECONDS):
                continue
            if not await self._database.fetch("find_instance", row["instance"]):
                self._abandoned.add(row["session_db_id"])
        if abandoned := tuple(self._abandoned):
            command = AbandonForks(NO_SESSION, abandoned)
            await self._writer.submit(Request(command, NO_SESSION, self._clock()))
            self._abandoned.difference_update(abandoned)

    async def _erase_portion(self) -> float:
        """Erase some rows; return the duration in seconds, 0 if nothing was found."""
        outcome = await self._writer.submit(
            Request(EraseRows(NO_SESSION, self._rows), NO_SESSION, self._clock())
        )
        assert isinstance(outcome, Erased), outcome
        seconds = self._writer.last_seconds
        fitting = int(self._rows * TARGET_SECONDS / max(seconds, 0.001))
        self._rows = min(max(fitting, FEWEST_ROWS), 2 * self._rows, MOST_ROWS)
        self._forget([key for key, id in self._left.items() if id in outcome.finished])
        self._on_erased()
        return seconds if outcome.rows or outcome.finished else 0.0

    def _forget_all(self) -> None:
        self._forget(list(self._left))

    def _forget(self, keys: Sequence[SessionKey]) -> None:
        for key in keys:
            del self._left[key]
        self._progress.set()
        self._progress.clear()
