"""W13: one process owns a SQLite file.

The lock file says who: a line for people, and a line that names the boot of the computer in which the
database was last open.
"""

from __future__ import annotations

import fcntl
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

from runtime.errors import DatabaseInUse, StartupError


class LockFile:
    """The lock beside a database file, held until `release`. It dies with its process."""

    def __init__(self, descriptor: int, last_boot: str) -> None:
        self._descriptor: int | None = descriptor
        self.same_boot = bool(last_boot) and last_boot == _boot()
        """Whether the computer has run on since the last owner had the database open."""

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
            last_boot = _lock(descriptor, database)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor, last_boot)

    def note_opened(self) -> None:
        """Note that the database is open in this boot. Not before: what an earlier one left lies there."""
        assert self._descriptor is not None
        _write(self._descriptor, _read(self._descriptor)[0], _boot())

    def release(self) -> None:
        """Give the file up. The lock file itself stays: taking it away would let two hold it at once."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _lock(descriptor: int, database: Path) -> str:
    """Take the lock, and return the boot of the last owner."""
    try:
        # flock goes by the open file, so that it also keeps out a second store of the same process.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = _read(descriptor)[0] or "another process"
        raise DatabaseInUse(f"DB_URL: {database} is in use by {owner}") from error
    except OSError as error:
        raise StartupError(f"DB_URL: cannot lock {database}.lock: {error.strerror}") from error
    last_boot = _read(descriptor)[1]
    owner = (
        f"process {os.getpid()} on host {socket.gethostname()} since {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    )
    _write(descriptor, owner, last_boot)
    return last_boot


def _read(descriptor: int) -> tuple[str, str]:
    owner, _, boot = os.pread(descriptor, 1024, 0).decode(errors="replace").partition("\n")
    return owner.strip(), boot.strip()


def _write(descriptor: int, owner: str, boot: str) -> None:
    text = f"{owner}\n{boot}\n".encode()
    try:
        os.pwrite(descriptor, text, 0)
        os.ftruncate(descriptor, len(text))
    except OSError as error:
        raise StartupError(f"DB_URL: cannot write the lock file: {error.strerror}") from error


def _boot() -> str:
    """What Linux calls this boot; empty where that is not to be had."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
