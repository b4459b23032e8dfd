"""Opens files that may be compressed: gzip and zstd, by their content to read and by their name to write."""

from __future__ import annotations

import gzip
import importlib
import io
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import IO, cast

from runtime.errors import StartupError

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
SUFFIXES = (".gz", ".zst")


@contextmanager
def open_to_read(path: Path) -> Iterator[IO[bytes]]:
    """What a file holds, decompressed. Raises OSError, and StartupError where zstandard is not installed."""
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(0)
        if start.startswith(GZIP):
            with gzip.GzipFile(fileobj=file) as opened:
                yield cast(IO[bytes], opened)
        elif start == ZSTD:
            decompressor = _zstandard(path).ZstdDecompressor()
            yield io.BufferedReader(decompressor.stream_reader(file, read_across_frames=True), 1 << 17)
        else:
            yield file


@contextmanager
def compressing(file: IO[bytes], name: Path) -> Iterator[IO[bytes]]:
    """A file to write to, whose content is compressed as `name` ends. The file itself stays open.

    Raises StartupError where zstandard is not installed.
    """
    if name.suffix == ".gz":
        with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=6, mtime=0) as opened:
            yield cast(IO[bytes], opened)
    elif name.suffix == ".zst":
        with _zstandard(name).ZstdCompressor().stream_writer(file, closefd=False) as writer:
            yield writer
    else:
        yield file


def damage_errors() -> tuple[type[Exception], ...]:
    """What reading a file raises that is damaged. One that is cut off ends, or raises EOFError."""
    errors: tuple[type[Exception], ...] = (OSError, zlib.error)
    if "zstandard" in sys.modules:
        errors += (sys.modules["zstandard"].ZstdError,)
    return errors


def _zstandard(path: Path) -> ModuleType:
    try:
        return importlib.import_module("zstandard")
    except ImportError:
        raise StartupError(
            f"{path}: zstandard is not installed: install agent-runtime[zstd], or use a name that ends in .gz"
        ) from None
