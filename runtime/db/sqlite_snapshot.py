"""Reads a SQLite file as it stands at one moment, and changes no byte of it or beside it.

Opening a file in WAL mode makes `-wal` and `-shm`, also for reading, and a hot journal is rolled back. So a
file that nobody has open is copied, with its log, and the copy is opened. One that another program has open
is read under SQLite's own locks. https://www.sqlite.org/wal.html, https://www.sqlite.org/lockingv3.html
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

# How long to wait for the lock of another program, in seconds.
LOCK_SECONDS = 30.0
# How often a copy is begun again because the file changed meanwhile.
COPY_TRIES = 20

_WAL_MODE = b"\x02\x02"
_SIDES = ("-wal", "-journal")


def read_main_file(path: Path, statement: str, *parameters: object) -> list[sqlite3.Row]:
    """The rows of a statement on the main file, without what its log holds. Raises sqlite3.Error."""
    with closing(_connect(path, "mode=ro&immutable=1")) as connection:
        connection.row_factory = sqlite3.Row
        return connection.execute(statement, parameters).fetchall()


@contextmanager
def open_snapshot(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to the database at `path` as it is now. It may be used from any one thread at a time.

    Raises sqlite3.Error, and OSError for a file that cannot be read or copied.
    """
    with tempfile.TemporaryDirectory(prefix="agent-runtime-") as folder:
        copy = Path(folder) / "snapshot.db"
        connection = _open_in_place(path) or _open_copy(path, copy)
        # Nothing is left behind, even by a kill: the connection keeps the file that has no name any more.
        copy.unlink(missing_ok=True)
    with closing(connection):
        yield connection


def _open_in_place(path: Path) -> sqlite3.Connection | None:
    """A read transaction on a WAL that has an index, so that it may be in use; else None."""
    if not (_is_wal_mode(path) and _size(f"{path}-wal") and _size(f"{path}-shm")):
        return None
    # With the index read-only it is not even marked as being read. That fails where the marks do not fit,
    # which happens only beside a program that is writing the index itself.
    for how in ("mode=ro&readonly_shm=1", "mode=ro"):
        connection = _connect(path, how)
        try:
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.OperationalError:
            connection.close()
        else:
            return connection
    return None


def _open_copy(path: Path, copy: Path) -> sqlite3.Connection:
    if _is_wal_mode(path) or not _back_up(path, copy):
        _copy_files(path, copy)
    connection = sqlite3.connect(copy, isolation_level=None, check_same_thread=False)
    # Brings what the log holds into the file.
    connection.execute("PRAGMA journal_mode = DELETE").fetchall()
    connection.execute("PRAGMA query_only = ON")
    connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    return connection


def _back_up(path: Path, copy: Path) -> bool:
    """Copy a file without a WAL under its lock. False where a dead program left a journal to roll back."""
    with closing(_connect(path, "mode=ro")) as source, closing(sqlite3.connect(copy)) as target:
        try:
            source.backup(target)
        except sqlite3.OperationalError:
            if not _size(f"{path}-journal"):
                raise
            return False
    return True


def _copy_files(path: Path, copy: Path) -> None:
    """Copy a file with its log, between two looks that find them the same."""
    for _ in range(COPY_TRIES):
        before = _look(path)
        shutil.copyfile(path, copy)
        for side in _SIDES:
            Path(f"{copy}{side}").unlink(missing_ok=True)
            if _size(f"{path}{side}"):
                shutil.copyfile(f"{path}{side}", f"{copy}{side}")
        if _look(path) == before:
            return
    raise OSError(f"{path} changes all the time: stop the program that writes to it")


def _look(path: Path) -> list[tuple[int, int]]:
    names = [str(path), *(f"{path}{side}" for side in _SIDES)]
    states = [os.stat(name) for name in names if os.path.exists(name)]
    return [(state.st_size, state.st_mtime_ns) for state in states]


def _connect(path: Path, how: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(str(path))}?{how}",
        uri=True,
        timeout=LOCK_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )


def _is_wal_mode(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(20)[18:20] == _WAL_MODE


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
