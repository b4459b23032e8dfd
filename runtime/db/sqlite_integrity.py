"""Whether a SQLite file and its WAL are whole: seen before anything opens them, without changing a byte.

SQLite takes a WAL that has lost its end for what was written, and forgets the rest without a word: those
are acknowledged writes (W5). The WAL-index (`-shm`) that a killed process leaves behind says how much
there was: https://www.sqlite.org/walformat.html.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

from runtime.db.foreign import OUR_TABLES, check_ours
from runtime.db.lockfile import LockFile
from runtime.db.queries import load_queries
from runtime.db.sqlite_dialect import DAMAGED
from runtime.db.sqlite_snapshot import open_snapshot, read_main_file
from runtime.db.sqlite_wal import FRAME_HEADER, INDEX_BYTES, WalIndex, parse_index, rewrite_all
from runtime.errors import FileDamaged, StartupError

MAGIC = b"SQLite format 3\0"
PAGE_SIZES = {2**n for n in range(9, 17)}

# R4: pages are looked at when the program starts only where that takes no time to speak of (bytes).
# `agent-runtime check` looks at all of them.
SMALL = 16 * 1024 * 1024
FINDINGS = 100

RESTORE = "restore a backup (agent-runtime check says more)"
ACCEPT = (
    "put the WAL back, or restore a backup; to go on without the writes that it has lost, "
    "delete the file of the same name that ends in -shm"
)


def own_file(path: Path) -> LockFile:
    """Own the database file, which is whole as far as can be told at once.

    Raises ForeignDatabase, DatabaseInUse, FileDamaged, and StartupError where the folder cannot be written.
    """
    refuse_foreign(path)
    lock = LockFile.take(path)
    try:
        check_file(path, index_is_true=lock.same_boot)
        # W14: the last owner may have died after a sync had failed.
        rewrite_all(str(path))
    except OSError as error:
        lock.release()
        raise StartupError(f"DB_URL: cannot write to the WAL of {path}: {error.strerror}") from error
    except BaseException:
        lock.release()
        raise
    return lock


def refuse_foreign(path: Path) -> None:
    """Raise ForeignDatabase where another program's tables are named as ours are. Changes no byte."""
    if not _size(path):
        return
    statement, database = load_queries("sqlite")["list_columns"].sql, f"sqlite:///{path}"
    # What cannot be read here is refused, for a better reason, by what follows.
    with suppress(sqlite3.Error, OSError):
        found = check_ours(database, read_main_file(path, statement, OUR_TABLES))
        if not found and _size(f"{path}-wal"):
            # The log of a killed process may hold all that was ever written.
            with open_snapshot(path) as snapshot:
                check_ours(database, snapshot.execute(statement, (OUR_TABLES,)))


def check_file(path: Path, *, index_is_true: bool) -> None:
    """Raise FileDamaged where a file that nobody else writes is not whole.

    `index_is_true` says that the computer ran on since the WAL-index was written. After a power cut the
    index may know of writes that the WAL has not, and W5 lets buffered ones be lost.
    """
    if _size(f"{path}-journal"):
        return  # A migration was interrupted: SQLite puts the file right before it looks at it.
    if index_is_true and (lost := _find_lost_writes(path)):
        raise FileDamaged(path, [lost], ACCEPT)
    if findings := _find_damage(path):
        raise FileDamaged(path, findings, RESTORE)


def _find_lost_writes(path: Path) -> str:
    index = _read_index(path)
    if index is None or index.frames <= index.backfilled or _is_in(path, index):
        return ""
    # Another program may just have closed the file, which takes the index away first, then the WAL.
    if _read_index(path) != index:
        return ""
    there = f"of its WAL {_size(f'{path}-wal')} bytes are there"
    return f"committed writes are lost: {there}, and {index.wal_bytes} were written"


def _read_index(path: Path) -> WalIndex | None:
    return parse_index(_read(f"{path}-shm", INDEX_BYTES))


def _is_in(path: Path, index: WalIndex) -> bool:
    """Whether the WAL has the last frame that the index knows."""
    last = index.wal_bytes - FRAME_HEADER - index.page_size
    frame = _read(f"{path}-wal", FRAME_HEADER, last)
    return frame[8:] == index.salts + index.checksum and _size(f"{path}-wal") >= index.wal_bytes


def _find_damage(path: Path) -> list[str]:
    size, wal = _size(path), _size(f"{path}-wal")
    header = _read(path, 100)
    if not size:
        # SQLite would delete the WAL, and begin anew.
        return ["it is empty or missing, and its WAL is not"] if wal else []
    if not header.startswith(MAGIC):
        return ["it is not a SQLite database"]
    whole = _size_by_header(header)
    # With a WAL that is not all in the file yet, it may be shorter by right.
    if not wal and size < whole:
        return [f"it is cut short: {size} of {whole} bytes are there"]
    return _find_bad_pages(path, size + wal <= SMALL)


def _size_by_header(header: bytes) -> int:
    page_size, pages = int.from_bytes(header[16:18]), int.from_bytes(header[28:32])
    # A program that did not keep the count of pages has written to it last: then it means nothing.
    is_kept = header[24:28] == header[92:96]
    if page_size == 1:
        page_size = 65536
    return page_size * pages if is_kept and page_size in PAGE_SIZES else 0


def _find_bad_pages(path: Path, all_of_them: bool) -> list[str]:
    """What SQLite finds wrong with all pages, or else with those that every opening needs."""
    if not _size(f"{path}-wal"):
        how = "immutable=1"
    elif _size(f"{path}-shm"):
        # The WAL is read into an index in memory.
        how = "readonly_shm=1"
    else:
        return []  # Reading it would make an index.
    look = f"PRAGMA quick_check({FINDINGS})" if all_of_them else "PRAGMA table_list"
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro&{how}", uri=True)) as connection:
            rows = connection.execute(look).fetchall()
    except sqlite3.Error as error:
        # Any other error comes again, and is told, when the file is opened.
        return [str(error)] if error.sqlite_errorcode & 0xFF in DAMAGED else []
    lines = (line for row in rows if all_of_them for line in row[0].splitlines())
    # SQLite puts a heading above some of its findings.
    return [line for line in lines if line != "ok" and not line.startswith("***")]


def _size(path: str | Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _read(path: str | Path, length: int, offset: int = 0) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(length)
    except OSError:
        return b""
