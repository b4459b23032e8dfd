"""The connections that read a SQLite file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, Generic, Protocol, TypeVar

from runtime.db.sqlite_dialect import DRIVER_ERRORS
from runtime.errors import DatabaseUnavailable
from runtime.uncancellable import run_to_completion

# How long to wait for an interrupted statement before it is interrupted again.
INTERRUPT_SECONDS = 0.05


class ReaderConnection(Protocol):
    """What is asked of a connection here."""

    async def interrupt(self) -> None: ...

    async def rollback(self) -> None: ...

    async def close(self) -> None: ...


Conn = TypeVar("Conn", bound=ReaderConnection)


class Readers(Generic[Conn]):
    """At most `size` connections, each opened when it is first needed; `timeout` is in seconds."""

    def __init__(self, connect: Callable[[], Coroutine[Any, Any, Conn]], size: int, timeout: float) -> None:
        self._connect = connect
        self._timeout = timeout
        self._turn = asyncio.Semaphore(size)
        self._opened: list[Conn] = []
        self._idle: list[Conn] = []
        self._closed = False

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Conn]:
        """One for the caller alone. Raises DatabaseUnavailable where none is free in time."""
        connection = await self._take()
        try:
            yield connection
        except asyncio.CancelledError:
            await run_to_completion(break_off(connection))
            raise
        finally:
            self._idle.append(connection)
            self._turn.release()

    def usage(self) -> dict[str, int]:
        """How many are `idle`, how many `busy`."""
        return {"idle": len(self._idle), "busy": len(self._opened) - len(self._idle)}

    async def close(self) -> None:
        """Close all of them; what they are reading is broken off."""
        self._closed = True
        for connection in self._opened:
            await break_off(connection)
            with suppress(*DRIVER_ERRORS):
                await connection.close()

    async def _take(self) -> Conn:
        try:
            async with asyncio.timeout(self._timeout):
                await self._turn.acquire()
        except TimeoutError as error:
            reason = f"no connection for reading came free in {self._timeout:g} s"
            raise DatabaseUnavailable(reason) from error
        try:
            # Again where another took what was opened here: it had come before this task went on.
            while not self._idle:
                await run_to_completion(self._grow())
            return self._idle.pop()
        except BaseException:
            self._turn.release()
            raise

    async def _grow(self) -> None:
        connection = await self._connect()
        self._opened.append(connection)
        if self._closed:
            await connection.close()
            raise DatabaseUnavailable("the database is closed")
        self._idle.append(connection)


async def break_off(connection: ReaderConnection) -> None:
    """End the statement that runs there, or is only about to: that one an interruption would miss."""
    # The rollback does nothing, but in its turn: when it has ended, so has the statement.
    turn = asyncio.ensure_future(connection.rollback())
    with suppress(*DRIVER_ERRORS):
        while not turn.done():
            await connection.interrupt()
            await asyncio.wait([turn], timeout=INTERRUPT_SECONDS)
        await turn
