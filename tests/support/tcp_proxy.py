"""A wire to Postgres that a test can cut, reset, freeze and slow down: bytes go from a loopback port to the
server's socket.

What is lost is lost as on a real line: from some byte on, to the end of that connection. Only notifications
can be lost out of the middle.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal

COMMIT, LISTEN = b"COMMIT\x00", b"LISTEN "
NOTIFICATION, NO_TLS = b"A", b"N"
PIECE = 65536
# For SO_LINGER: on, and no time.
AT_ONCE = struct.pack("ii", 1, 0)

Fault = Literal["cut before", "cut after", "answer nothing", "go dead"]


class Authenticator:
    """Lets everything through, but while it is closed."""

    def __init__(self) -> None:
        self._opened = asyncio.Event()
        self._opened.set()

    @property
    def closed(self) -> bool:
        return not self._opened.is_set()

    @closed.setter
    def closed(self, closed: bool) -> None:
        if closed:
            self._opened.clear()
        else:
            self._opened.set()

    async def pass_through(self) -> None:
        await self._opened.wait()


class Wire:
    """`at_commit` says what happens to each COMMIT, or, with `once`, to the next one alone.

    A line that goes dead stays open at the server. While `frozen`, nothing comes back at all; while `cut`,
    nothing goes there either. Each piece takes `delay` seconds. While `mute`, notifications are swallowed.
    """

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._lines: dict[Line, asyncio.Task[None]] = {}
        self._there, self._back = Authenticator(), Authenticator()
        self.at_commit: Fault | None = None
        self.once = self.mute = False
        self.delay = 0.0
        self.faults = self.muted = 0

    @property
    def frozen(self) -> bool:
        return self._back.closed

    @frozen.setter
    def frozen(self, frozen: bool) -> None:
        self._back.closed = frozen

    @property
    def cut(self) -> bool:
        return self._there.closed

    @cut.setter
    def cut(self, cut: bool) -> None:
        self._there.closed = self._back.closed = cut

    async def carry(self, reader: StreamReader, writer: StreamWriter) -> None:
        """A connection to the near end, until it is closed at either."""
        task = asyncio.current_task()
        assert task is not None
        line = Line(self, reader, writer)
        self._lines[line] = task
        try:
            await line.carry(self._socket)
        finally:
            del self._lines[line]

    def fault(self, data: bytes) -> Fault | None:
        """What is to happen to what goes to the server."""
        fault = self.at_commit if COMMIT in data else None
        if fault is not None:
            self.faults += 1
            self.at_commit = None if self.once else fault
        return fault

    async def travel_there(self) -> None:
        await asyncio.sleep(self.delay)
        await self._there.pass_through()

    async def travel_back(self) -> None:
        await asyncio.sleep(self.delay)
        await self._back.pass_through()

    def reset(self) -> int:
        """Break every connection off, at both ends; how many there were."""
        for line in self._lines:
            line.reset()
        return len(self._lines)

    def deafen(self) -> int:
        """Let nothing more come back over the connections that listen and still hear; how many there were."""
        listening = [line for line in self._lines if line.listens and not line.deaf]
        for line in listening:
            line.deaf = True
        return len(listening)

    async def stop(self) -> None:
        """End every connection, also those that have only just come."""
        for _ in range(4):
            await asyncio.sleep(0)
        tasks = list(self._lines.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Line:
    """One connection over the wire."""

    def __init__(self, wire: Wire, reader: StreamReader, writer: StreamWriter) -> None:
        self._wire = wire
        self._reader, self._writers = reader, [writer]
        self._messages = Messages()
        self._answered = asyncio.Event()
        self._swallow = False
        self.listens = self.deaf = False

    async def carry(self, path: str) -> None:
        try:
            await self._carry_both_ways(path)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            # All at once, and then waited for: `stop` may come while this ends by itself.
            for writer in self._writers:
                writer.transport.abort()
            closing = (writer.wait_closed() for writer in self._writers)
            await asyncio.gather(*closing, return_exceptions=True)

    async def _carry_both_ways(self, path: str) -> None:
        server_reader, server = await asyncio.open_unix_connection(path)
        self._writers.append(server)
        back = asyncio.create_task(self._carry_back(server_reader, self._writers[0]))
        try:
            await self._carry_there(server)
        finally:
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)

    def reset(self) -> None:
        for writer in self._writers:
            # Not an orderly end but RST. What is closed already cannot be broken off any more.
            with suppress(OSError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
            writer.transport.abort()

    async def _carry_there(self, server: StreamWriter) -> None:
        while data := await self._reader.read(PIECE):
            self.listens = self.listens or LISTEN in data
            await self._wire.travel_there()
            fault = self._wire.fault(data)
            if fault == "cut before":
                return
            if fault == "go dead":
                await asyncio.Event().wait()
            self._swallow = fault == "cut after"
            self._wire.frozen = self._wire.frozen or fault == "answer nothing"
            server.write(data)
            await server.drain()
            if fault == "cut after":
                await self._answered.wait()
                return

    async def _carry_back(self, server: StreamReader, writer: StreamWriter) -> None:
        with suppress(OSError):
            while data := await server.read(PIECE):
                await self._wire.travel_back()
                if self._swallow:
                    self._answered.set()
                elif not self.deaf:
                    writer.write(self._filtered(data))
                    await writer.drain()
        writer.close()

    def _filtered(self, data: bytes) -> bytes:
        passed = []
        for message in self._messages.split(data):
            if self._wire.mute and message.startswith(NOTIFICATION):
                self._wire.muted += 1
            else:
                passed.append(message)
        return b"".join(passed)


class Messages:
    """Takes what a server sends apart: https://www.postgresql.org/docs/current/protocol-message-formats.html"""

    def __init__(self) -> None:
        self._rest = b""
        self._begun = False

    def split(self, data: bytes) -> list[bytes]:
        """The messages that are whole now."""
        data, begin, messages = self._rest + data, 0, []
        if not self._begun and data.startswith(NO_TLS):
            # A refusal of TLS is this one byte; any other beginning is a message.
            messages, begin = [NO_TLS], 1
        self._begun = True
        while begin + 5 <= len(data):
            end = begin + 1 + int.from_bytes(data[begin + 1 : begin + 5])
            if end > len(data):
                break
            messages.append(data[begin:end])
            begin = end
        self._rest = data[begin:]
        return messages


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
