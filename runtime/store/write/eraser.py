"""Erases rows that deletions and cuts have left, in portions, so that no other write waits long."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Sequence
from datetime import datetime

from runtime.db.database import Database
from runtime.errors import AgentRuntimeError, ShuttingDown
from runtime.store.changes import CommittedChange
from runtime.store.records import SessionKey
from runtime.store.write.commands import EraseRows, Request
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

NO_SESSION = SessionKey("", "")


class Eraser:
    """A task that submits one portion after the other to the writer while rows are left to erase.

    Callers can wait until all rows of a deleted session are erased.
    """

    def __init__(self, database: Database, writer: Writer, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._writer = writer
        self._clock = clock
        self._rows = FIRST_ROWS
        self._due = asyncio.Event()
        self._left: dict[SessionKey, int] = {}
        self._abandoned: set[int] = set()
        self._progress = asyncio.Event()
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

    def release(self) -> None:
        """Let no caller wait any longer: the rows will be erased later."""
        self._forget(list(self._left))

    async def close(self) -> None:
        """Stop at once. The next start continues."""
        self._task.cancel()
        await asyncio.wait([self._task])
        self.release()

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
                self.release()
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
            self.release()

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
        return seconds if outcome.rows or outcome.finished else 0.0

    def _forget(self, keys: Sequence[SessionKey]) -> None:
        for key in keys:
            del self._left[key]
        self._progress.set()
        self._progress.clear()
