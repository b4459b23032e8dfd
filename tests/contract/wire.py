"""A wire to Postgres that a test can cut or freeze: bytes go from a loopback port to the server's socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

COMMIT = b"COMMIT\x00"

Fault = Literal["cut before", "cut after", "answer nothing", "go dead"]


class Wire:
    """`at_commit` says what happens to each COMMIT, or, with `once`, to the next one alone.

    While `frozen`, nothing comes back at all. A line that goes dead stays open at the server.
    """

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._tasks: set[asyncio.Task[None]] = set()
        self._answered = asyncio.Event()
        self.at_commit: Fault | None = None
        self.once = False
        self.frozen = False
        self.faults = 0

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        server_reader, server_writer = await asyncio.open_unix_connection(self._socket)
        back = asyncio.create_task(self._carry_back(server_reader, writer))
        try:
            await self._carry_on(reader, server_writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            back.cancel()
            writer.close()
            server_writer.close()

    async def _carry_on(self, reader: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            fault = self._fault(data)
            if fault == "cut before":
                return
            if fault == "go dead":
                await asyncio.Event().wait()
            self.frozen = self.frozen or fault is not None
            server.write(data)
            await server.drain()
            if fault == "cut after":
                await self._answered.wait()
                self._answered.clear()
                self.frozen = not self.once
                return

    def _fault(self, data: bytes) -> Fault | None:
        fault = self.at_commit if COMMIT in data else None
        if fault is not None:
            self.faults += 1
            self.at_commit = None if self.once else fault
        return fault

    async def _carry_back(self, server: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await server.read(65536):
            if self.frozen:
                self._answered.set()
            else:
                writer.write(data)
        writer.close()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def lay_wire(url: str) -> AsyncIterator[tuple[Wire, str]]:
    """A wire to the server behind `url`, which names a socket's folder, and the URL of its near end."""
    address, _, folder = url.partition("?host=")
    wire = Wire(f"{folder}/.s.PGSQL.5432")
    server = await asyncio.start_server(wire.carry, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield wire, address.replace("@/", f"@127.0.0.1:{port}/")
    finally:
        server.close()
        await wire.stop()
