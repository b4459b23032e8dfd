"""Whether the WAL of an open SQLite file is known to be whole on the disk (W14)."""

from __future__ import annotations

import logging
import sqlite3
from urllib.parse import quote

from runtime.db.sqlite_wal import SharedIndex, rewrite_committed
from runtime.errors import DatabaseUnavailable

logger = logging.getLogger("agent_runtime.db")

# A checkpoint is due when so many frames are not in the database file yet. SQLite's own automatic one does
# not report its errors, and so must not run here.
CHECKPOINT_FRAMES = 1000


class Log:
    """The WAL of the file at `path`, which this process owns.

    `doubt` is the error since which it is not known to be whole; empty where it is.

    A connection of its own holds the file open, so that the WAL stays where it is while others are closed.
    It cannot write: where it is the last one to be closed, SQLite leaves the WAL as it is.
    """

    def __init__(self, path: str) -> None:
        self.doubt = ""
        self._path = path
        self._holder: sqlite3.Connection | None = None
        self._index: SharedIndex | None = None
        self._checkpoint_at = CHECKPOINT_FRAMES

    def open(self) -> None:
        """To be called when a connection that writes is open. Raises sqlite3.Error and OSError."""
        uri = f"file:{quote(self._path)}?mode=ro"
        self._holder = sqlite3.connect(uri, uri=True, check_same_thread=False)
        self._holder.execute("PRAGMA schema_version").fetchall()
        self._index = SharedIndex(self._path)
        # Where another program kept the index through a crash, it counts what may not be on the disk.
        self._index.forget_backfill()

    def is_checkpoint_due(self) -> bool:
        """Whether the last transactions have made the WAL long enough."""
        return self._pending() >= self._checkpoint_at

    def note_checkpoint(self) -> None:
        """One was made, perhaps of a part: the next is due when as much again has been written."""
        self._checkpoint_at = self._pending() + CHECKPOINT_FRAMES

    def _pending(self) -> int:
        index = self._index.read() if self._index is not None else None
        return 0 if index is None else index.frames - index.backfilled

    def note_error(self, error: str) -> None:
        """From now on the WAL is not known to be whole."""
        if not self.doubt:
            logger.error(
                "%s: %s: nothing is confirmed until all that its WAL holds is on the disk", self._path, error
            )
            self.doubt = error

    def make_whole(self) -> None:
        """Bring all that is committed to the disk once more. The caller has the file's write lock.

        Raises DatabaseUnavailable where the disk does not take it, and DatabaseDamaged.
        """
        assert self._index is not None, "the log of a file that is not open"
        index = self._index.read()
        if index is None:
            raise DatabaseUnavailable("its index is being written")
        try:
            rewrite_committed(self._path, index)
            self._index.forget_backfill()
        except OSError as error:
            raise DatabaseUnavailable(error.strerror or str(error)) from error
        logger.warning("%s: its WAL is whole again after: %s", self._path, self.doubt)
        self.doubt = ""

    def explain(self, reason: str) -> str:
        """Why nothing is written."""
        return f"{self.doubt}; since then the WAL could not be made whole: {reason}"

    def release(self) -> None:
        """Let the last connection that is closed bring the WAL into the file, unless it may not be whole."""
        if self._holder is not None and not self.doubt:
            self._holder.close()
            self._holder = None

    def close(self) -> None:
        """To be called when every other connection is closed."""
        if self._holder is not None:
            self._holder.close()
        if self._index is not None:
            self._index.close()
        if self.doubt:
            logger.error("%s: its WAL is left as it is, for the next start to make it whole", self._path)
