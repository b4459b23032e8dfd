"""The write-ahead log of a SQLite file: how long it is, and whether that is told."""

from __future__ import annotations

import logging
import os

logger = logging.getLogger("agent_runtime.db")

# The WAL is cut back to this size (bytes), looked at this often (seconds), and nobody waits longer for
# the readers who still need it than this (milliseconds).
WAL_LIMIT = 16 * 1024 * 1024
WAL_SECONDS = 5.0
WAL_BUSY_MS = 200


class Wal:
    """The WAL of the file at `path`. Whoever reads the file keeps all that was written since from being
    taken out of it: it is told once that it grows, and once that it no longer does."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._is_pinned = False

    def size(self) -> int:
        """How long it is, in bytes."""
        try:
            return os.stat(f"{self._path}-wal").st_size
        except OSError:
            return 0

    def is_too_long(self) -> bool:
        """Whether it has outgrown its limit."""
        return self.size() > WAL_LIMIT

    def note(self) -> None:
        """To be called when it should be within its limit."""
        was_pinned, self._is_pinned = self._is_pinned, self.is_too_long()
        if self._is_pinned and not was_pinned:
            logger.warning(
                "the WAL of %s is %d MiB long and grows with every write: something that reads the file "
                "has had a transaction open for too long",
                self._path,
                self.size() >> 20,
            )
        elif was_pinned and not self._is_pinned:
            logger.warning("the WAL of %s is cut back to %d MiB", self._path, self.size() >> 20)
