"""What can happen to a SQLite file, its WAL and its index while no server runs."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random

from runtime.db.sqlite_integrity import _read_index
from runtime.db.sqlite_wal import WAL_HEADER, WalIndex

SUFFIXES = ("", "-wal", "-shm")


def wal(path: Path) -> Path:
    return Path(f"{path}-wal")


def size(path: Path, suffix: str = "") -> int:
    return Path(f"{path}{suffix}").stat().st_size


def digests(path: Path) -> dict[str, str]:
    found = {suffix: Path(f"{path}{suffix}") for suffix in SUFFIXES}
    return {
        suffix: hashlib.sha256(file.read_bytes()).hexdigest()
        for suffix, file in found.items()
        if file.exists()
    }


def settle(path: Path) -> None:
    """Bring the WAL into the file, as an orderly end does."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert list(digests(path)) == [""]


def read_index(path: Path) -> WalIndex:
    index = _read_index(path)
    assert index is not None
    return index


def cut(file: Path, length: int) -> None:
    with file.open("r+b") as opened:
        opened.truncate(length)


def overwrite(file: Path, offset: int, garbage: bytes) -> None:
    with file.open("r+b") as opened:
        opened.seek(offset)
        opened.write(garbage)


def garbage(length: int) -> bytes:
    return Random(length).randbytes(length)


def cut_to_a_frame(path: Path) -> None:
    cut(wal(path), read_index(path).wal_bytes - read_index(path).page_size - 24)


def cut_in_a_frame(path: Path) -> None:
    cut(wal(path), read_index(path).wal_bytes - 1)


def cut_to_its_header(path: Path) -> None:
    cut(wal(path), WAL_HEADER)


def cut_to_nothing(path: Path) -> None:
    cut(wal(path), 0)


def delete_the_wal(path: Path) -> None:
    wal(path).unlink()


def zero_the_end(path: Path) -> None:
    overwrite(wal(path), read_index(path).wal_bytes - 5000, bytes(5000))


def destroy_the_header(path: Path) -> None:
    settle(path)
    overwrite(path, 0, garbage(100))


def destroy_the_page_size(path: Path) -> None:
    settle(path)
    overwrite(path, 16, b"\x12\x34")


def destroy_the_header_beside_a_wal(path: Path) -> None:
    overwrite(path, 0, garbage(100))


def destroy_a_page_of_messages(path: Path) -> None:
    """Nobody comes upon it who does not look for it."""
    settle(path)
    overwrite(path, size(path) // 8192 * 4096, garbage(4096))


def destroy_pages(path: Path) -> None:
    settle(path)
    overwrite(path, 4096, garbage(size(path) - 3 * 4096))


def destroy_pages_beside_a_wal(path: Path) -> None:
    overwrite(path, 4096, garbage(size(path) - 3 * 4096))


def cut_the_file(path: Path) -> None:
    settle(path)
    cut(path, size(path) // 2)


def empty_the_file_beside_a_wal(path: Path) -> None:
    cut(path, 0)


def put_a_text_there(path: Path) -> None:
    settle(path)
    path.write_text("dear diary, " * 1000)
