"""Keeps a slow reader away from a database: what is read of it goes through a temporary file."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from runtime.errors import DatabaseUnavailable

# The most bytes that are read of the file at a time.
PIECE = 256 * 1024


async def spooled(pieces: AsyncGenerator[bytes, None], seconds: float) -> AsyncGenerator[bytes, None]:
    """The same bytes, in pieces of another length, at the pace of the reader.

    The source is consumed at its own pace, within `seconds`, whatever the reader does (R5). What the reader
    has not taken yet is in a file without a name, in the folder for temporary files. Raises what the source
    raises, and DatabaseUnavailable if it takes longer or the file cannot be written.
    """
    with tempfile.TemporaryFile(buffering=0) as file:
        spool = _Spool(file.fileno())
        filling = asyncio.create_task(spool.fill(pieces, seconds))
        try:
            while piece := await spool.take():
                yield piece
            await filling
        finally:
            filling.cancel()
            await asyncio.wait([filling])
            with suppress(BaseException):
                filling.result()


class _Spool:
    """A file that one task fills while another one reads it."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._written = self._taken = 0
        self._ended = False
        self._news = asyncio.Event()

    async def fill(self, pieces: AsyncGenerator[bytes, None], seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds), aclosing(pieces):
                async for piece in pieces:
                    await asyncio.to_thread(self._append, piece)
                    self._news.set()
        except TimeoutError as error:
            raise DatabaseUnavailable(f"it could not be read within {seconds:g} s") from error
        except OSError as error:
            where = tempfile.gettempdir()
            raise DatabaseUnavailable(f"it cannot be kept in {where}: {error.strerror}") from error
        finally:
            self._ended = True
            self._news.set()

    def _append(self, piece: bytes) -> None:
        view = memoryview(piece)
        while view:
            done = os.pwrite(self._file, view, self._written)
            self._written += done
            view = view[done:]

    async def take(self) -> bytes:
        """The next bytes; none at the end."""
        while self._taken == self._written and not self._ended:
            self._news.clear()
            await self._news.wait()
        piece = await asyncio.to_thread(os.pread, self._file, PIECE, self._taken)
        self._taken += len(piece)
        return piece
