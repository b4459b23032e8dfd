"""A connection of aiosqlite, and statements that are run on it by name.

aiosqlite runs each connection in a thread of its own and takes its calls in order. Cancelling an await
does not stop the statement in the thread, so a caller that is cancelled breaks it off and waits until it has
ended; and the thread is not a daemon, so every connection is closed, whatever happens.
"""

from __future__ import annotations

import asyncio
import functools
import sqlite3
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import aiosqlite

from runtime.db.database import Row
from runtime.db.queries import Queries
from runtime.db.slowlog import SlowLog, now
from runtime.db.sqlite_dialect import DRIVER_ERRORS, bind, is_busy, translate
from runtime.db.sqlite_staging import StagingConnection
from runtime.errors import DatabaseConflict, DatabaseUnavailable

# Another program may look into the file, and hold it for as long as this (seconds). The writer waits in steps
# of BUSY_STEP: SQLite's own wait cannot be interrupted.
BUSY_SECONDS = 1.0
BUSY_STEP = 0.05

Connection = aiosqlite.Connection
Result = TypeVar("Result")


@dataclass(frozen=True)
class WritingConnection:
    """A connection that writes, and the same one as its thread has it."""

    connection: Connection
    staging: StagingConnection


async def translated(awaitable: Awaitable[Result]) -> Result:
    """The same, with errors of ours."""
    try:
        return await awaitable
    except DRIVER_ERRORS as error:
        raise translate(error) from error


async def connect(path: str, pragmas: Sequence[str], **options: Any) -> Connection:
    """An open connection. Not to be cancelled: see `finish`."""
    options = {"timeout": BUSY_SECONDS, "detect_types": sqlite3.PARSE_DECLTYPES, **options}
    connection = aiosqlite.connect(path, isolation_level=None, **options)
    await translated(connection)
    try:
        connection.row_factory = sqlite3.Row
        for pragma in pragmas:
            await translated(connection.execute_fetchall(pragma))
    except BaseException:
        await close(connection)
        raise
    return connection


async def connect_to_write(path: str, pragmas: Sequence[str]) -> WritingConnection:
    """The same, for the one that writes."""
    made: list[StagingConnection] = []

    def make(*args: Any, **options: Any) -> StagingConnection:
        made.append(StagingConnection(*args, **options))
        return made[0]

    return WritingConnection(await connect(path, pragmas, factory=make, timeout=BUSY_STEP), made[0])


async def begin(connection: Connection) -> None:
    """Begin a transaction that writes, once the file is free."""
    now = asyncio.get_running_loop().time
    deadline = now() + BUSY_SECONDS
    while True:
        try:
            await translated(connection.execute_fetchall("BEGIN IMMEDIATE"))
        except DatabaseUnavailable as error:
            if not is_busy(error) or now() > deadline:
                raise
        else:
            return


async def close(connection: Connection) -> None:
    """Close it, when what it was asked before has ended."""
    with suppress(*DRIVER_ERRORS):
        await connection.close()


class SqliteReading:
    """A connection that statements are run on by name."""

    def __init__(self, connection: Connection, queries: Queries, slow: SlowLog) -> None:
        self._connection = connection
        self._queries = queries
        self._slow = slow

    async def fetch(self, statement: str, *parameters: object) -> Sequence[Row]:
        """Run a statement by name and return all of its rows."""
        started = now()
        try:
            sql = self._queries[statement].sql
            return cast(Sequence[Row], await self._connection.execute_fetchall(sql, bind(parameters)))
        except DRIVER_ERRORS as error:
            raise translate(error) from error
        finally:
            self._slow.note(statement, started)


class SqliteSnapshot(SqliteReading):
    """A transaction while it is open.

    What it runs in one turn of its thread takes at most `timeout` seconds. What takes longer, or belongs to a
    caller that was cancelled, is broken off at the end of the transaction.
    """

    def __init__(self, connection: Connection, queries: Queries, slow: SlowLog, timeout: float) -> None:
        super().__init__(connection, queries, slow)
        self._timeout = timeout

    async def fetch(self, statement: str, *parameters: object) -> Sequence[Row]:
        """Run a statement by name and return all of its rows."""
        try:
            async with asyncio.timeout(self._timeout):
                return await super().fetch(statement, *parameters)
        except TimeoutError as error:
            raise DatabaseUnavailable(f"{statement} took longer than {self._timeout:g} s") from error


class SqliteTransaction(SqliteSnapshot):
    """The write transaction while it is open. It writes when it reads next, or at the end."""

    def __init__(self, writing: WritingConnection, queries: Queries, slow: SlowLog, timeout: float) -> None:
        super().__init__(writing.connection, queries, slow, timeout)
        self._staging = writing.staging

    async def execute_many(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        """Run a statement by name once for each row of parameters."""
        self._staging.stage(functools.partial(self._execute_many, statement, rows))

    def _execute_many(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        started, query = now(), self._queries[statement]
        try:
            done = self._staging.executemany(query.sql, map(bind, rows))
            if query.checks_rows and done.rowcount != len(rows):
                raise DatabaseConflict(f"a row is not what {statement} took it for")
        finally:
            self._slow.note(statement, started)
