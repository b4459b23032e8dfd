"""Gives labels to the sessions of an earlier version, in portions, so that no other write waits long."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime

from runtime.db.database import Database
from runtime.errors import AgentRuntimeError, ShuttingDown
from runtime.store.write.commands import NO_SESSION, LabelSessions, Request
from runtime.store.write.outcomes import Labelled
from runtime.store.write.writer import Writer

logger = logging.getLogger("agent_runtime.labels")

# The most sessions of a portion.
PORTION = 100
# Seconds to wait while other instances are at work, and after a failure.
OTHERS_SECONDS, FAILURE_SECONDS = 0.2, 1.0


class Labeller:
    """A task that submits one portion after the other to the writer until every session has labels."""

    def __init__(self, database: Database, writer: Writer, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._writer = writer
        self._clock = clock
        self._labelled = 0
        self._task = asyncio.create_task(self._run(), name="labeller")

    async def close(self) -> None:
        """Stop at once. The next start continues."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            try:
                if not (await self._database.fetch("find_unlabelled_session"))[0]["found"]:
                    break
                await asyncio.sleep(await self._label_portion())
            except ShuttingDown:
                return
            except AgentRuntimeError as error:
                logger.warning("labelling failed and is retried in %g s: %s", FAILURE_SECONDS, error)
                await asyncio.sleep(FAILURE_SECONDS)
        if self._labelled:
            logger.info("%d sessions have labels now: lists can be filtered", self._labelled)

    async def _label_portion(self) -> float:
        """Label some sessions; return the seconds to wait before the next portion."""
        command = LabelSessions(NO_SESSION, PORTION)
        outcome = await self._writer.submit(Request(command, NO_SESSION, self._clock()))
        assert isinstance(outcome, Labelled), outcome
        self._labelled += outcome.sessions
        if not outcome.sessions:
            return OTHERS_SECONDS
        if self._labelled % (100 * PORTION) < outcome.sessions:
            logger.info("%d sessions have labels, more are waiting", self._labelled)
        # Leave half of the writer's time to other requests, if there are any.
        return self._writer.last_seconds if len(self._writer.queue) else 0.0
