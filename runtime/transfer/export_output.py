"""Writes an export to a file, which is there once it is whole."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

from runtime.errors import ExportUnwritable
from runtime.transfer.compressed import compressing


async def write_file(pieces: AsyncIterator[bytes], path: Path, *, overwrite: bool) -> None:
    """Write pieces to a new file, compressed as its name ends: `.gz` or `.zst`.

    They go to a file beside it, which gets its name when all of it is on the disk. With `overwrite` an
    existing file is replaced. Raises ExportUnwritable, and StartupError where zstandard is missing.
    """
    try:
        await _write_file(pieces, path, overwrite=overwrite)
    except OSError as error:
        raise ExportUnwritable(f"{path}: {error.strerror}; nothing is left of the export") from error


async def _write_file(pieces: AsyncIterator[bytes], path: Path, *, overwrite: bool) -> None:
    _check_free(path, overwrite=overwrite)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as file:
            with compressing(file, path) as output:
                async for piece in pieces:
                    # Compressing takes longer than reading.
                    await asyncio.to_thread(output.write, piece)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        _check_free(path, overwrite=overwrite)
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _check_free(path: Path, *, overwrite: bool) -> None:
    if not overwrite and os.path.lexists(path):
        raise ExportUnwritable(f"{path} exists: choose another name, or replace it with --overwrite")
