"""Exports: reads sessions exactly as they are stored, from one consistent snapshot."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from runtime.store.core import Core
from runtime.store.read.export_reader import ExportScope, read_export
from runtime.store.spool import spooled

# How long a snapshot is open at most, in seconds: while it is, the database cannot clean up.
SNAPSHOT_SECONDS = 3600.0


class Exports:
    """Exports sessions as JSON Lines. Part of the store."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def pieces(self, scope: ExportScope) -> AsyncGenerator[bytes, None]:
        """An export in pieces, at the pace of the reader; see `Store.export`."""
        await self._core.writer.settle(scope.key)
        reading = read_export(self._core.database, scope, self._core.clock())
        async with aclosing(spooled(reading, SNAPSHOT_SECONDS)) as pieces:
            async for piece in pieces:
                yield piece

    async def lines(self, scope: ExportScope) -> AsyncGenerator[bytes, None]:
        """The lines of an export, each with its line break."""
        rest = b""
        async with aclosing(self.pieces(scope)) as pieces:
            async for piece in pieces:
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    yield line + b"\n"
