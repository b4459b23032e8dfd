"""The write-ahead log (WAL) of a SQLite file and its index: https://www.sqlite.org/walformat.html.

W14: when a sync fails, Linux marks the pages that it did not write as clean. A later sync of the same file
passes them over and succeeds: it proves nothing of what was written before the failure. The pages are
still right in memory (or, on some file systems, gone back to what the disk has). So after an I/O error the
log is read, compared with the checksums that it carries, and written again in place; the next sync that
succeeds then covers all of it.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from runtime.errors import DatabaseDamaged

logger = logging.getLogger("agent_runtime.db")

# The WAL is cut back to this size (bytes), looked at this often (seconds), and nobody waits longer for
# the readers who still need it than this (milliseconds).
WAL_LIMIT = 16 * 1024 * 1024
WAL_SECONDS = 5.0
WAL_BUSY_MS = 200

WAL_HEADER, FRAME_HEADER = 32, 24
BIG_ENDIAN_CHECKSUMS = 1  # The last bit of the magic number.
PIECE = 1024 * 1024
# The byte of the index that a writer locks, and how long to wait for it (seconds).
WRITE_LOCK, LOCK_SECONDS = 120, 1.0

# Version, unused, change counter, whether it is set up, byte order, page size, frames, pages; the checksum
# of the last frame, the salts, a checksum. It stands there twice, then comes how many frames are in the
# database file already.
INDEX = struct.Struct("=3I2BH2I2I8s8s")
INDEX_VERSION = 3_007_000
INDEX_BYTES = 2 * INDEX.size + 4


@dataclass(frozen=True)
class WalIndex:
    """What the WAL holds: `frames` that are committed, of which `backfilled` are in the database file."""

    page_size: int
    frames: int
    backfilled: int
    checksum: bytes
    salts: bytes

    @property
    def wal_bytes(self) -> int:
        """How long the WAL must be at least."""
        return WAL_HEADER + self.frames * (FRAME_HEADER + self.page_size)


def parse_index(raw: bytes) -> WalIndex | None:
    """None where there is no index, or one that was being written: SQLite makes it anew."""
    header = raw[: INDEX.size]
    if len(raw) < INDEX_BYTES or header != raw[INDEX.size : 2 * INDEX.size]:
        return None
    version, _, _, is_set_up, _, size, frames, _, *checksum, salts, _ = INDEX.unpack(header)
    if version != INDEX_VERSION or not is_set_up:
        return None
    (backfilled,) = struct.unpack_from("=I", raw, 2 * INDEX.size)
    # 65536 does not fit, and is written as 1.
    page_size = (size & 0xFE00) + ((size & 1) << 16)
    return WalIndex(page_size, frames, backfilled, struct.pack(">2I", *checksum), salts)


class SharedIndex:
    """The WAL-index of a database that this process has open.

    Closing a descriptor of a file drops all POSIX locks that the process has on it, those of SQLite too. So
    this one stays open until every connection is closed.
    """

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(f"{path}-shm", os.O_RDWR)

    def read(self) -> WalIndex | None:
        """Its content; None while another thread or process writes to it."""
        return parse_index(os.pread(self._descriptor, INDEX_BYTES, 0))

    def forget_backfill(self) -> None:
        """Have the next checkpoint copy every frame again, as it does after a crash.

        A checkpoint that readers cut short counts what it has copied without syncing it, and the sync
        that should have covered it may have failed. Copying again changes nothing that a reader sees.
        """
        os.pwrite(self._descriptor, bytes(4), 2 * INDEX.size)

    def close(self) -> None:
        """Not before the connections are closed."""
        os.close(self._descriptor)


def rewrite_committed(path: str, index: WalIndex) -> None:
    """Bring what is committed in the WAL to the disk, and cut off what lies behind it.

    Behind it may lie a transaction that was refused but looks committed, and that would come back after a
    crash. The caller has the write lock of the file. Raises OSError, and DatabaseDamaged where the WAL does
    not hold what was written to it.
    """
    with _opened(f"{path}-wal") as wal:
        if index.frames:
            _rewrite_frames(wal, index)
        os.ftruncate(wal, index.wal_bytes if index.frames else 0)
        os.fsync(wal)


def rewrite_all(path: str) -> None:
    """Bring the WAL that a dead process has left to the disk, as it is. Raises OSError.

    Which part of it is committed is for SQLite to find out when it opens the file. This process has no
    connection to it yet.
    """
    with suppress(FileNotFoundError), _opened(f"{path}-wal") as wal, _write_lock(path):
        position = 0
        while piece := os.pread(wal, PIECE, position):
            position += os.pwrite(wal, piece, position)
        os.fsync(wal)


@contextmanager
def _opened(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _write_lock(path: str) -> Iterator[None]:
    """Keep other programs that have the file open from writing, as SQLite itself does."""
    try:
        with _opened(f"{path}-shm") as index:
            deadline = time.monotonic() + LOCK_SECONDS
            while True:
                try:
                    fcntl.lockf(index, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, WRITE_LOCK)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)
            yield
    except FileNotFoundError:
        yield  # Without an index nobody writes.


def _rewrite_frames(wal: int, index: WalIndex) -> None:
    header = os.pread(wal, WAL_HEADER, 0)
    order = ">" if header[3:4] and header[3] & BIG_ENDIAN_CHECKSUMS else "<"
    sums = _add_checksum(header[:24], order, (0, 0))
    _check(header[16:] == index.salts + struct.pack(">2I", *sums))
    _write(wal, header, 0)
    size = FRAME_HEADER + index.page_size
    for position in range(WAL_HEADER, index.wal_bytes, size):
        frame = os.pread(wal, size, position)
        _check(len(frame) == size)
        sums = _add_checksum(frame[:8] + frame[FRAME_HEADER:], order, sums)
        _check(frame[8:FRAME_HEADER] == index.salts + struct.pack(">2I", *sums))
        _write(wal, frame, position)
    _check(struct.pack(">2I", *sums) == index.checksum)


def _check(is_whole: bool) -> None:
    if not is_whole:
        raise DatabaseDamaged("the database file is damaged: its WAL has lost what was written to it")


def _write(wal: int, data: bytes, position: int) -> None:
    if os.pwrite(wal, data, position) != len(data):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def _add_checksum(data: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    first, second = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second


class Wal:
    """How long the WAL of the file at `path` is. A reader keeps what was written since from being taken out
    of it: a warning says once that it grows, and once that it no longer does."""

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
