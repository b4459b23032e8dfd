"""W13: one process owns a SQLite file."""

from __future__ import annotations

import fcntl
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

from runtime.errors import DatabaseInUse, StartupError


class LockFile:
    """The lock beside a database file, held until `release`. It dies with its process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    @classmethod
    def take(cls, database: Path) -> LockFile:
        """Own the database file; its folder is made where it is missing.

        Raises DatabaseInUse, which names the owner, and StartupError where the folder cannot be written.
        """
        try:
            database.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(f"{database}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            reason = f"DB_URL: cannot write to the folder {database.parent}: {error.strerror}"
            raise StartupError(reason) from error
        try:
            _lock(descriptor, database)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor)

    def release(self) -> None:
        """Give the file up. The lock file itself stays: taking it away would let two hold it at once."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _lock(descriptor: int, database: Path) -> None:
    try:
        # flock goes by the open file, so that it also keeps out a second store of the same process.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(descriptor, 1024, 0).decode(errors="replace").strip() or "another process"
        raise DatabaseInUse(f"DB_URL: {database} is in use by {owner}") from error
    except OSError as error:
        raise StartupError(f"DB_URL: cannot lock {database}.lock: {error.strerror}") from error
    owner = (
        f"process {os.getpid()} on host {socket.gethostname()} since {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    )
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{owner}\n".encode(), 0)
