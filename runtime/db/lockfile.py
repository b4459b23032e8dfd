"""W13: one process owns a SQLite file, whatever path or link leads to it.

Two locks are taken. The one on the lock file beside the database is known by the path of the database. The
one on the database file itself is known by what the file is (device and inode): it keeps out a process that
comes by a hard link or a mount of the single file, where another lock file lies. SQLite locks the file with
`fcntl`, and on Linux `flock` does not meet that. Elsewhere it may, and only the first lock is taken.

Neither helps after a crash: the WAL lies beside the path that its owner used, and a process that opens the
file by a hard link would not see it. So a file of several names is opened by the one that its last owner
used, which the lock file notes, and by no other.

The lock file says who owns the database: a line for people, one that names the boot of the computer in which
the database was last open, and one with the path.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import stat
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

from runtime.errors import DatabaseInUse, DatabaseLinked, StartupError

# What is made here is for its owner alone.
FILE_MODE, FOLDER_MODE = 0o600, 0o700
# Each class of users: who can read, and who can write.
CLASSES = ((stat.S_IRGRP, stat.S_IWGRP), (stat.S_IROTH, stat.S_IWOTH))

# What this process owns, by device and inode. To open such a file once more and close it again would take
# away the locks that SQLite has on it.
_owned: set[tuple[int, int]] = set()


class Note(NamedTuple):
    """The content of a lock file."""

    owner: str = ""
    boot: str = ""
    path: str = ""


class LockFile:
    """The locks of a database file, held until `release`. They die with the process."""

    def __init__(self, descriptors: list[int], note: Note) -> None:
        self._descriptors = descriptors
        self._identity = _identity(os.fstat(descriptors[1]))
        self._note = note
        _owned.add(self._identity)
        self.same_boot = bool(note.boot) and note.boot == _boot()
        """Whether the computer has run on since the last owner had the database open."""

    @classmethod
    def take(cls, database: Path) -> LockFile:
        """Own the database file; it and its folder are made where they are missing.

        Raises DatabaseInUse, which names the owner; DatabaseLinked where the file is known by another path;
        and StartupError where the files cannot be opened.
        """
        descriptors: list[int] = []
        try:
            descriptors.append(_open_lock_file(database))
            note = _lock(descriptors[0], database)
            _check_not_owned(database)
            descriptors.append(_open_database(database))
            _lock_database(descriptors[1], database, note)
            since = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
            note = note._replace(owner=f"process {os.getpid()} on host {socket.gethostname()} since {since}")
            _write(descriptors[0], note)
        except BaseException:
            for descriptor in descriptors:
                os.close(descriptor)
            raise
        return cls(descriptors, note._replace(path=quote(str(database))))

    def note_opened(self) -> None:
        """Note that the database is open in this boot. Not before: what an earlier one left lies there."""
        _write(self._descriptors[0], self._note._replace(boot=_boot()))

    def release(self) -> None:
        """Give the file up, when SQLite has closed it.

        The lock file itself stays: taking it away would let two hold it at once.
        """
        _owned.discard(self._identity)
        while self._descriptors:
            os.close(self._descriptors.pop())


def _open_lock_file(database: Path) -> int:
    try:
        _make_folder(database.parent)
        descriptor = os.open(f"{database}.lock", os.O_RDWR | os.O_CREAT, FILE_MODE)
    except OSError as error:
        reason = f"DB_URL: cannot write to the folder {database.parent}: {error.strerror}"
        raise StartupError(reason) from error
    # To open a file for reading is enough to lock it. One that an earlier version made can be opened by
    # everybody: no class of users may read it that may not write to it.
    mode = allowed = os.fstat(descriptor).st_mode
    for reads, writes in CLASSES:
        if not mode & writes:
            allowed &= ~reads
    if allowed != mode:
        with suppress(PermissionError):
            os.fchmod(descriptor, stat.S_IMODE(allowed))
    return descriptor


def _make_folder(folder: Path) -> None:
    for each in reversed([folder, *folder.parents]):
        if not each.is_dir():
            # Another process may make it now. Where a file has its name, opening the lock file fails.
            with suppress(FileExistsError):
                each.mkdir(FOLDER_MODE)


def _open_database(database: Path) -> int:
    """SQLite gives the files that it makes beside the database the mode of the database."""
    try:
        return os.open(database, os.O_RDONLY | os.O_CREAT, FILE_MODE)
    except OSError as error:
        raise StartupError(f"DB_URL: cannot open {database}: {error.strerror}") from error


def _lock(descriptor: int, database: Path) -> Note:
    """Take the lock of the lock file, and return what the last owner noted."""
    try:
        # flock goes by the open file, so that it also keeps out a second store of the same process.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        note = _read(descriptor)
        reason = f"DB_URL: {database} is in use by {note.owner or 'another process'}"
        if note.path and unquote(note.path) != str(database):
            # Its folder was copied as links.
            raise DatabaseLinked(f"{reason}, as {unquote(note.path)}") from error
        raise DatabaseInUse(reason) from error
    except OSError as error:
        raise StartupError(f"DB_URL: cannot lock {database}.lock: {error.strerror}") from error
    return _read(descriptor)


def _check_not_owned(database: Path) -> None:
    with suppress(FileNotFoundError):
        if _identity(os.stat(database)) in _owned:
            reason = f"DB_URL: {database} is in use by this process, {os.getpid()}, under another path"
            raise DatabaseLinked(reason)


def _lock_database(descriptor: int, database: Path, note: Note) -> None:
    status = os.fstat(descriptor)
    if sys.platform == "linux":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = _find_holder(status.st_ino)
            raise DatabaseLinked(f"DB_URL: {database} is in use by {owner}, under another path") from error
        except OSError as error:
            raise StartupError(f"DB_URL: cannot lock {database}: {error.strerror}") from error
    if status.st_nlink > 1 and unquote(note.path) != str(database):
        known = f"it was last open as {unquote(note.path)}" if note.path else "it was never open by this one"
        raise DatabaseLinked(
            f"DB_URL: {database} is one of {status.st_nlink} names (hard links) of a file, and {known}; its "
            "WAL lies beside one name only: use that one, or delete the other names, or open a copy"
        )


def _find_holder(inode: int) -> str:
    """Who has the lock of a file, as far as Linux shows it."""
    with suppress(OSError):
        locks = Path("/proc/locks").read_text()
        if found := re.search(rf"FLOCK +ADVISORY +WRITE +(\d+) +\w+:\w+:{inode} ", locks):
            return f"process {found[1]}"
    return "another process"


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _read(descriptor: int) -> Note:
    lines = os.pread(descriptor, 16384, 0).decode(errors="replace").splitlines()
    return Note(*(line.strip() for line in lines[:3]))


def _write(descriptor: int, note: Note) -> None:
    text = "".join(f"{line}\n" for line in note).encode()
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
