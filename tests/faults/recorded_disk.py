"""What a disk may hold after a power cut, reckoned from what a real server wrote to it.

`disk_shim.c` records each write, sync and truncation of the server on its SQLite file and WAL, and makes
chosen calls fail. `Disk` plays the records into the page cache of a computer that runs Linux: a sync brings
the dirty pages to the disk; one that fails leaves them clean, and on the disk or not, so that a later sync
passes them over. A page that is dirty at a power cut may be on the disk, not, or in part, sector by sector.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Literal, NamedTuple

PAGE, SECTOR = 4096, 512
SUFFIXES = ("", "-wal", "-journal")
WRITE, SYNC, TRUNCATE, UNLINK = range(4)
RECORD = struct.Struct("=dii qq ii")

# How much of what no sync has covered is on the disk. "kill" is no power cut: the process was killed, and the
# next one sees the page cache.
Kind = Literal["nothing", "all", "some", "torn", "kill"]
KINDS: tuple[Kind, ...] = ("nothing", "all", "some", "torn", "kill")


class Record(NamedTuple):
    """A call of the server: `at` is a time of `time.monotonic()`, before it."""

    at: float
    call: int
    file: int
    offset: int
    length: int
    failed: bool
    data: bytes


class Image(NamedTuple):
    """What lies there if the power is cut between two records; `at` is the time of the second."""

    at: float
    name: str
    files: tuple[bytes, ...]


def compile_shim(folder: Path) -> Path:
    """The library to preload. Fails where there is no C compiler."""
    compiler = shutil.which("cc")
    assert compiler, "this test needs a C compiler: install gcc or clang, so that `cc` is found"
    source, library = Path(__file__).with_name("disk_shim.c"), folder / "disk_shim.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-o", library, source, "-ldl", "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return library


def recorded(command: Sequence[str], library: Path, database: Path, log: Path, fault: str = "") -> list[str]:
    """The command, with what it writes to the database recorded. `fault` is a DISK_FAULT of the shim."""
    settings = {"LD_PRELOAD": library, "DISK_FILE": database, "DISK_LOG": log, "DISK_FAULT": fault}
    return ["env", *(f"{name}={value}" for name, value in settings.items()), *command]


def read_log(log: Path) -> list[Record]:
    """Every record, oldest first."""
    raw, records, place = log.read_bytes(), [], 0
    while place + RECORD.size <= len(raw):
        at, call, file, offset, length, error, _ = RECORD.unpack_from(raw, place)
        place += RECORD.size
        data = b""
        if call == WRITE and not error:
            data = raw[place : place + length]
            place += length
        records.append(Record(at, call, file, offset, length, bool(error), data))
    return records


@dataclass
class RecordedFile:
    """A file in the page cache and on the disk.

    `cut` is the least length that it was truncated to since the disk has known of it.
    """

    cache: bytearray
    durable: bytearray
    dirty: set[int] = field(default_factory=set)
    cut: int | None = None
    is_unlinked: bool = False

    def write(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        self.cache.extend(bytes(max(end - len(self.cache), 0)))
        self.cache[offset:end] = data
        self.dirty.update(range(offset // PAGE, (end + PAGE - 1) // PAGE))

    def truncate(self, length: int) -> None:
        if length < len(self.cache):
            self.cut = length if self.cut is None else min(self.cut, length)
        del self.cache[length:]
        self.cache.extend(bytes(length - len(self.cache)))
        self.dirty = {page for page in self.dirty if page * PAGE < length}

    def unlink(self) -> None:
        self.truncate(0)
        self.is_unlinked = True

    def commit_directory(self) -> None:
        """A file system with a journal brings changes of names to the disk in order, before a later sync."""
        if self.is_unlinked:
            self.durable, self.cut, self.is_unlinked = bytearray(), None, False

    def sync(self) -> None:
        self.durable = self.image({page: range(PAGE // SECTOR) for page in self.dirty}, is_cut=True)
        # Its length is true as well, also where pages of it were lost.
        self.durable.extend(bytes(len(self.cache) - len(self.durable)))
        self.dirty, self.cut = set(), None

    def fail_to_sync(self, chance: Random, share: float) -> None:
        """Each dirty page is on the disk, with this probability, or lost; all are clean."""
        kept = {page: range(PAGE // SECTOR) for page in sorted(self.dirty) if chance.random() < share}
        # What was truncated waits in the journal of the file system, and is not lost.
        self.durable = self.image(kept, is_cut=False)
        self.dirty = set()

    def image(self, sectors: dict[int, Sequence[int]], *, is_cut: bool) -> bytearray:
        """What is on the disk once these sectors of dirty pages are."""
        image = bytearray(self.durable)
        if is_cut and self.cut is not None:
            del image[self.cut :]
        for page, numbers in sectors.items():
            # What lies behind a truncation that is not done has no place yet.
            if self.cut is None or is_cut or page * PAGE < self.cut:
                for sector in numbers:
                    self._copy_sector(image, page * PAGE + sector * SECTOR)
        return image

    def _copy_sector(self, image: bytearray, begin: int) -> None:
        data = self.cache[begin : begin + SECTOR]
        if not data:
            return
        image.extend(bytes(max(begin + len(data) - len(image), 0)))
        image[begin : begin + len(data)] = data

    def cut_power(self, kind: Kind, chance: Random) -> bytes:
        everything = range(PAGE // SECTOR)
        if kind == "kill":
            return bytes(self.cache)
        if kind == "nothing":
            return bytes(self.durable)
        dirty = sorted(self.dirty)
        if kind == "all":
            return bytes(self.image(dict.fromkeys(dirty, everything), is_cut=True))
        share = chance.random()
        if kind == "some":
            kept = {page: everything for page in dirty if chance.random() < share}
            return bytes(self.image(kept, is_cut=chance.random() < 0.5))
        torn = {page: [n for n in everything if chance.random() < share] for page in dirty}
        return bytes(self.image(torn, is_cut=chance.random() < 0.5))


def rebuild(
    database: bytes, records: Sequence[Record], cuts: Sequence[tuple[int, Kind]], chance: Random, share: float
) -> Iterator[Image]:
    """The images of these power cuts, each (after how many records, what is on the disk), in order.

    `database` is the file before the first record; `share` that of pages which a failed sync brings to disk.
    """
    files = [RecordedFile(bytearray(database), bytearray(database))]
    files += [RecordedFile(bytearray(), bytearray()) for _ in SUFFIXES[1:]]
    done = 0
    for number, kind in sorted(cuts):
        for record in records[done:number]:
            _play(record, files, chance, share)
        done = number
        at = records[number].at if number < len(records) else float("inf")
        images = tuple(file.cut_power(kind, chance) for file in files)
        yield Image(at, f"{kind} after {number} of {len(records)} records", images)


def _play(record: Record, files: Sequence[RecordedFile], chance: Random, share: float) -> None:
    if record.failed and record.call != SYNC:
        return
    file = files[record.file]
    if record.failed:
        file.fail_to_sync(chance, share)
    elif record.call == SYNC:
        for each in files:
            each.commit_directory()
        file.sync()
    elif record.call == WRITE:
        file.write(record.offset, record.data)
    elif record.call == TRUNCATE:
        file.truncate(record.length)
    else:
        file.unlink()


def lay_out(image: Image, folder: Path) -> Path:
    """The database file of an image, with its WAL and journal beside it, in an empty folder."""
    path = folder / "agent_runtime.db"
    for suffix, data in zip(SUFFIXES, image.files, strict=True):
        if data or not suffix:
            Path(f"{path}{suffix}").write_bytes(data)
    return path
