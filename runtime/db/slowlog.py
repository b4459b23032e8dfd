"""Names the statements that are slow."""

from __future__ import annotations

import logging
from time import perf_counter

logger = logging.getLogger("agent_runtime.db")

now = perf_counter


class SlowLog:
    """Warns of each statement that took `limit_ms` milliseconds or longer."""

    def __init__(self, limit_ms: float) -> None:
        self._limit = limit_ms / 1000

    def note(self, statement: str, started: float) -> None:
        """Say that a statement, begun at `started` (seconds of `now`), has ended, well or not."""
        seconds = now() - started
        if seconds >= self._limit:
            logger.warning("slow statement %s: %.0f ms", statement, seconds * 1000)
