"""The connections that read a SQLite file, shared by many who want one at the same moment."""

from __future__ import annotations

import asyncio

import pytest

from runtime.db.sqlite_readers import Readers


class Opened:
    """A connection that is never asked for anything."""

    async def interrupt(self) -> None: ...

    async def rollback(self) -> None: ...

    async def close(self) -> None: ...


async def open_connection() -> Opened:
    return Opened()


@pytest.mark.parametrize("steps", range(8))
async def test_a_new_connection_may_go_to_another_caller(steps: int) -> None:
    readers = Readers(open_connection, 2, timeout=10)
    done = asyncio.Event()

    async def hold() -> Opened:
        async with readers.connection() as connection:
            await done.wait()
            return connection

    async with asyncio.TaskGroup() as group:
        first = group.create_task(hold())
        for _ in range(steps):
            await asyncio.sleep(0)
        second = group.create_task(hold())
        while readers.usage()["busy"] < 2 and not (first.done() or second.done()):  # noqa: ASYNC110
            await asyncio.sleep(0)
        done.set()
    assert first.result() is not second.result()


class Late(Opened):
    """A connection whose statement begins only after the first interruption, which it does not feel."""

    def __init__(self) -> None:
        self.interruptions = 0
        self.ended = asyncio.Event()

    async def interrupt(self) -> None:
        self.interruptions += 1
        if self.interruptions == 2:
            self.ended.set()

    async def rollback(self) -> None:
        await self.ended.wait()


async def test_a_statement_that_is_only_about_to_begin_does_not_hold_up_the_end() -> None:
    late = Late()

    async def connect() -> Late:
        return late

    readers = Readers(connect, 1, timeout=10)
    async with readers.connection():
        await readers.close()
    assert late.ended.is_set()
