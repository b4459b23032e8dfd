"""SQLite, by aiosqlite: one connection that writes and checkpoints, a few that read.

aiosqlite runs each connection in a thread of its own and takes its calls in order. Cancelling an await
does not stop the statement in the thread, so whoever is cancelled waits until it has ended; and the
thread is not a daemon, so every connection is closed, whatever happens.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import sqlite3
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar, cast
from urllib.parse import quote

import aiosqlite

from runtime.db.cancellation import finish
from runtime.db.database import DatabaseUrl, Dialect, Limits, Row
from runtime.db.lockfile import LockFile
from runtime.db.queries import Queries, load_queries
from runtime.db.slowlog import SlowLog, now
from runtime.db.sqlite_dialect import DRIVER_ERRORS, bind, is_read_only, translate
from runtime.db.sqlite_files import RESTORE
from runtime.db.sqlite_readers import Readers
from runtime.db.sqlite_staging import StagingConnection
from runtime.db.sqlite_wal import WAL_BUSY_MS, WAL_LIMIT, WAL_SECONDS, Wal
from runtime.errors import (
    CommitUnknown,
    DatabaseConflict,
    DatabaseDamaged,
    DatabaseError,
    DatabaseUnavailable,
    FileDamaged,
    StartupError,
)

logger = logging.getLogger("agent_runtime.db")

# The first that has the operator ->>.
OLDEST_SQLITE = (3, 38)
# Another program may look into the file, and hold it for as long as this (seconds).
BUSY_SECONDS = 1.0
# A reader takes and gives up the interpreter's lock with each row: four of them list half the sessions that
# two do, and these leave one free while the other is at something long.
MAX_READERS = 2

WRITER_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA foreign_keys = ON",
    f"PRAGMA journal_size_limit = {WAL_LIMIT}",
)
# Beside the owner of a file: whoever commits leaves checkpoints to the owner, and waits for its turn between
# two of the owner's transactions. (Older versions of SQLite can damage a file when a commit and a checkpoint
# of two connections meet in one instant; `agent-runtime token` commits once, by hand: so much of it remains.)
GUEST_PRAGMAS = ("PRAGMA foreign_keys = ON", "PRAGMA wal_autocheckpoint = 0", "PRAGMA busy_timeout = 10000")
READER_PRAGMAS = ("PRAGMA query_only = ON",)
# W5: an acknowledged transaction survives power loss, a buffered one may not.
SYNCHRONOUS = {True: "PRAGMA synchronous = FULL", False: "PRAGMA synchronous = NORMAL"}

Result = TypeVar("Result")


async def _translated(awaitable: Awaitable[Result]) -> Result:
    try:
        return await awaitable
    except DRIVER_ERRORS as error:
        raise translate(error) from error


async def _connect(path: str, pragmas: Sequence[str], **options: Any) -> aiosqlite.Connection:
    """An open connection. Not to be cancelled: see `finish`."""
    connection = aiosqlite.connect(
        path, timeout=BUSY_SECONDS, isolation_level=None, detect_types=sqlite3.PARSE_DECLTYPES, **options
    )
    await _translated(connection)
    try:
        connection.row_factory = sqlite3.Row
        for pragma in pragmas:
            await _translated(connection.execute_fetchall(pragma))
    except BaseException:
        await _close(connection)
        raise
    return connection


async def _close(connection: aiosqlite.Connection) -> None:
    with suppress(*DRIVER_ERRORS):
        await connection.close()


async def list_applied(url: DatabaseUrl) -> list[str]:
    """The ids of the migrations that the file has; none where there is no file. Writes nothing.

    It is the first that is asked of a database: StartupError says when it cannot be used.
    """
    return await finish(_list_applied(url))


async def _list_applied(url: DatabaseUrl) -> list[str]:
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise StartupError(f"SQLite {sqlite3.sqlite_version} is too old: 3.38 or later is needed")
    if not os.path.exists(url.address):  # noqa: ASYNC240 - as quick as any statement of SQLite
        return []
    connection = aiosqlite.connect(f"file:{quote(url.address)}?mode=ro", uri=True, timeout=BUSY_SECONDS)
    try:
        await connection
        statement = load_queries("sqlite")["list_applied_migrations"].sql
        return [row[0] for row in await connection.execute_fetchall(statement)]
    except sqlite3.Error as error:
        if str(error).startswith("no such table"):
            return []
        translated = translate(error)
        if isinstance(translated, DatabaseDamaged):
            raise FileDamaged(url.address, [str(error)], RESTORE) from error
        raise StartupError(f"DB_URL: cannot read {url}: {translated}") from error
    finally:
        await _close(connection)


class SqliteReading:
    """A connection that statements are run on by name."""

    def __init__(self, connection: aiosqlite.Connection, queries: Queries, slow: SlowLog) -> None:
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


class SqliteTransaction(SqliteReading):
    """The write transaction while it is open. It writes when it reads next, or at the end."""

    def __init__(
        self, connection: aiosqlite.Connection, staging: StagingConnection, queries: Queries, slow: SlowLog
    ) -> None:
        super().__init__(connection, queries, slow)
        self._staging = staging

    async def execute_many(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        """Run a statement by name once for each row of parameters."""
        self._staging.stage(functools.partial(self._execute_many, statement, rows))

    def _execute_many(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        started, query = now(), self._queries[statement]
        try:
            done = self._staging.executemany(query.sql, map(bind, rows))
            if "base_version" in query.parameters and done.rowcount != len(rows):
                raise DatabaseConflict(f"a row is not what {statement} took it for")
        finally:
            self._slow.note(statement, started)


class SqliteDatabase:
    """A SQLite file that this process owns (W13)."""

    dialect: Dialect = "sqlite"
    sole_writer = True

    def __init__(self, url: DatabaseUrl, limits: Limits, lock: LockFile | None) -> None:
        self.instance = f"agent-runtime {uuid.uuid4().hex}"
        self._path = url.address
        self._limits = limits
        self._lock = lock
        self._queries = load_queries("sqlite")
        self._slow = SlowLog(limits.slow_query_ms)
        self._readers = Readers(
            lambda: _connect(url.address, READER_PRAGMAS),
            min(limits.pool_max, MAX_READERS),
            limits.pool_timeout,
        )
        self._turn = asyncio.Lock()
        self._writer: aiosqlite.Connection | None = None
        self._durable: bool | None = None
        self._closed = False
        self._truncating: asyncio.Task[None] | None = None
        self._wal = Wal(url.address)
        self._damage = ""

    @classmethod
    async def open(cls, url: DatabaseUrl, limits: Limits, lock: LockFile | None) -> SqliteDatabase:
        """Open the file, whose lock is held and is given up by `close`. Raises StartupError.

        Without a lock another process owns the file, and alone checkpoints it.
        """
        database = cls(url, limits, lock)
        try:
            await finish(database._open_writer())
            if lock is not None:
                lock.note_opened()
        except BaseException as error:
            await database.close()
            if isinstance(error, DatabaseError):
                raise StartupError(f"DB_URL: cannot open {url}: {error}") from error
            raise
        if lock is not None:
            database._truncating = asyncio.create_task(database._truncate_regularly())
        return database

    async def fetch(self, statement: str, *parameters: object) -> Sequence[Row]:
        """Run a reading statement by name; return all rows."""
        seconds = self._limits.command_timeout
        try:
            async with asyncio.timeout(seconds), self._readers.connection() as connection:
                return await SqliteReading(connection, self._queries, self._slow).fetch(
                    statement, *parameters
                )
        except DatabaseDamaged as error:
            self._note_damage(error)
            raise
        except TimeoutError as error:
            raise DatabaseUnavailable(f"{statement} took longer than {seconds:g} s") from error

    @asynccontextmanager
    async def transaction(self, *, durable: bool = True) -> AsyncIterator[SqliteTransaction]:
        """The one write transaction: see `Database.transaction`."""
        async with self._turn:
            connection = await self._writing_connection()
            committing = False
            try:
                await self._begin(connection, durable)
                yield SqliteTransaction(connection, self._staging, self._queries, self._slow)
                committing = True
                await _translated(connection.commit())
            except BaseException as error:
                if isinstance(error, DatabaseDamaged):
                    self._note_damage(error)
                rolled_back = await finish(self._roll_back(connection))
                if is_read_only(error):
                    # It was opened while the disk was read-only, and would stay so.
                    await finish(self._give_up(connection))
                if committing and not rolled_back:
                    raise CommitUnknown(str(error)) from error
                raise

    def listen(self, on_payload: Callable[[str], None], on_gap: Callable[[], None]) -> None:
        """Nothing: no other process writes here."""

    def was_lost(self, seconds: float) -> bool:
        """Never: the file is here."""
        return False

    def pool_usage(self) -> dict[str, int]:
        """The connections for reading: how many are `idle`, how many `busy`."""
        return self._readers.usage()

    def wal_bytes(self) -> int:
        """How long the WAL is."""
        return self._wal.size()

    def fault(self) -> str:
        """The damage that was met."""
        return self._damage

    async def truncate_wal(self) -> None:
        """Bring the WAL back into the file where it has outgrown its limit, in the turn of a transaction."""
        if self._wal.is_too_long():
            async with self._turn:
                await self._checkpoint(await self._writing_connection())
        self._wal.note()

    async def _checkpoint(self, connection: aiosqlite.Connection) -> None:
        usual = f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000:.0f}"
        for pragma in (
            f"PRAGMA busy_timeout = {WAL_BUSY_MS}",
            "PRAGMA wal_checkpoint(TRUNCATE)",
            usual,
        ):
            await _translated(connection.execute_fetchall(pragma))

    def _note_damage(self, error: DatabaseDamaged) -> None:
        """Nothing more is written to a file that is damaged; what can be read of it is."""
        if not self._damage:
            self._damage = str(error)
            logger.error("%s: %s; it takes no more writes, restore a backup", self._path, error)

    async def close(self, timeout: float = 0) -> None:
        """Close every connection and give up the file. No statement here waits long for another."""
        if not self._closed:
            self._closed = True
            await finish(self._close_all())

    async def _close_all(self) -> None:
        if self._truncating is not None:
            self._truncating.cancel()
            await asyncio.wait([self._truncating])
        # The writer last: the last one to close brings the WAL back into the file, and only it may.
        await self._readers.close()
        if self._writer is not None:
            await _close(self._writer)
        if self._lock is not None:
            self._lock.release()

    async def _writing_connection(self) -> aiosqlite.Connection:
        if self._closed:
            raise DatabaseUnavailable("the database is closed")
        if self._damage:
            raise DatabaseDamaged(self._damage)
        if self._writer is None:
            await finish(self._open_writer())
        return cast(aiosqlite.Connection, self._writer)

    async def _open_writer(self) -> None:
        made: list[StagingConnection] = []

        def make(*args: Any, **options: Any) -> StagingConnection:
            made.append(StagingConnection(*args, **options))
            return made[0]

        pragmas = WRITER_PRAGMAS if self._lock is not None else GUEST_PRAGMAS
        self._writer = await _connect(self._path, pragmas, factory=make)
        (self._staging,) = made
        self._durable = None

    async def _begin(self, connection: aiosqlite.Connection, durable: bool) -> None:
        if durable is not self._durable:
            self._durable = None
            await _translated(connection.execute_fetchall(SYNCHRONOUS[durable]))
            self._durable = durable
        # Not staged: this is where it waits for the file, and what waits here is not under way (W8).
        await _translated(connection.execute_fetchall("BEGIN IMMEDIATE"))

    async def _roll_back(self, connection: aiosqlite.Connection) -> bool:
        """Whether the transaction is known to be gone. The connection is usable afterwards, or given up."""
        try:
            # In its turn, after a statement that was cancelled; nothing where no transaction is open.
            await connection.rollback()
        except DRIVER_ERRORS:
            await self._give_up(connection)
            return False
        return True

    async def _give_up(self, connection: aiosqlite.Connection) -> None:
        """The next transaction opens another."""
        self._writer = None
        await _close(connection)

    async def _truncate_regularly(self) -> None:
        while True:
            await asyncio.sleep(WAL_SECONDS)
            try:
                await self.truncate_wal()
            except DatabaseError as error:
                logger.warning("the WAL of %s could not be cut back: %s", self._path, error)
