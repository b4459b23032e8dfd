"""Disks that are full, or take no writes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A disk of its own, in memory. Needs the right to mount."""
    folder.mkdir()
    _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        _run("umount", str(folder))


@contextmanager
def ballast(disk: Path) -> Iterator[None]:
    """While this is open there is not one byte left."""
    file = disk / "ballast"
    try:
        with file.open("wb", buffering=0) as opened, suppress(OSError):
            while True:
                opened.write(bytes(4096))
        yield
    finally:
        file.unlink()


@contextmanager
def write_protected(files: Sequence[Path]) -> Iterator[None]:
    """While this is open nobody can write to these, not even who has them open.

    A disk that is remounted read-only would do the same; but Linux refuses that while a file is open for
    writing. Needs the right to do so, and a file system that keeps it: ext4, not tmpfs.
    """
    _run("chattr", "+i", *map(str, files))
    try:
        yield
    finally:
        _run("chattr", "-i", *map(str, files))


def check_protection(folder: Path) -> None:
    """Fail where `write_protected` does not hold here."""
    file = folder / "probe"
    with file.open("wb", buffering=0) as opened, write_protected([file]):
        with suppress(OSError):
            os.write(opened.fileno(), b"x")
        assert not file.stat().st_size, f"the file system of {folder} writes to protected files; use ext4"


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()} (this test needs root)"


@contextmanager
def mounted_file(file: Path, place: Path) -> Iterator[Path]:
    """The same file by another path, as a container has it. Needs the right to mount."""
    place.parent.mkdir()
    place.touch()
    _run("mount", "--bind", str(file), str(place))
    try:
        yield place
    finally:
        _run("umount", str(place))
