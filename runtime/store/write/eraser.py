"""Erases what deletions and cuts have left, a portion at a time: no other write waits long for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Sequence
from datetime import datetime

from runtime.db.database import Database
from runtime.errors import AgentRuntimeError, ShuttingDown
from runtime.store.changes import SessionChange
from runtime.store.records import SessionKey
from runtime.store.write.commands import EraseRows, Request
from runtime.store.write.outcomes import Erased
from runtime.store.write.writer import Writer

logger = logging.getLogger("agent_runtime.eraser")

# How long a transaction with a portion should take, in seconds.
TARGET_SECONDS = 0.05
# How many rows the first portion has, and the least and the most that a portion has.
FIRST_ROWS, FEWEST_ROWS, MOST_ROWS = 100, 20, 5000
# How often to look for what other instances, or an earlier start, have left, in seconds.
LOOK_SECONDS = 60.0
# How long to wait while others erase what is left, and after a failure, in seconds.
OTHERS_SECONDS, FAILURE_SECONDS = 0.2, 1.0

NOBODY = SessionKey("", "")


class Eraser:
    """A task that asks the writer for one portion after the other, while anything is left to erase.

    It knows the sessions that are gone until all of their rows are erased: that can be waited for.
    """

    def __init__(self, database: Database, writer: Writer, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._writer = writer
        self._clock = clock
        self._rows = FIRST_ROWS
        self._due = asyncio.Event()
        self._left: dict[SessionKey, int] = {}
        self._progress = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="eraser")

    def note(self, changes: Sequence[SessionChange]) -> None:
        """Erase what these changes leave, soon."""
        for change in changes:
            if change.leaves_rows:
                self._due.set()
                if change.head is None and change.base is not None:
                    self._left[change.key] = change.base.id

    async def wait_for(self, key: SessionKey, timeout: float) -> None:
        """Wait until all of a session that is gone is erased; not longer than `timeout` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while key in self._left:
                    await self._progress.wait()

    async def wait_for_all(self) -> None:
        """Wait until all that is gone is erased, or cannot be erased now."""
        while self._left:
            await self._progress.wait()

    def release(self) -> None:
        """Let nobody wait any more: what is left will be erased later."""
        self._forget(list(self._left))

    async def close(self) -> None:
        """Stop, at once. The next start goes on."""
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
                # What was erased stays erased. It may have been too much for the time that a write has.
                self._rows = max(1, self._rows // 4)
                self.release()
                logger.warning("erasing goes on in %g s: %s", FAILURE_SECONDS, error)
                await asyncio.sleep(FAILURE_SECONDS)

    async def _erase_all(self) -> None:
        while await self._is_left():
            found = False
            while seconds := await self._erase_portion():
                found = True
                # Others get half of the writer's time, if they want it.
                if len(self._writer.queue):
                    await asyncio.sleep(seconds)
            if not found:
                await asyncio.sleep(OTHERS_SECONDS)
        if not self._due.is_set():
            self.release()

    async def _is_left(self) -> bool:
        self._due.clear()
        [row] = await self._database.fetch("find_erasable")
        return bool(row["found"])

    async def _erase_portion(self) -> float:
        """Erase some rows; return how many seconds that took, 0 where nothing was found."""
        outcome = await self._writer.submit(Request(EraseRows(NOBODY, self._rows), NOBODY, self._clock()))
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
