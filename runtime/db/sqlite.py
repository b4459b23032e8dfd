"""SQLite, by aiosqlite: one connection that writes and checkpoints, a few that read."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from urllib.parse import quote

import aiosqlite

from runtime.db.database import MAX_SNAPSHOTS, Dialect, PoolLimits, Row
from runtime.db.lockfile import LockFile
from runtime.db.queries import load_queries
from runtime.db.slowlog import SlowLog
from runtime.db.sqlite_connection import (
    BUSY_SECONDS,
    BUSY_STEP,
    SqliteReading,
    SqliteSnapshot,
    SqliteTransaction,
    WritingConnection,
    begin,
    close,
    connect,
    connect_to_write,
    translated,
)
from runtime.db.sqlite_dialect import is_read_only, translate
from runtime.db.sqlite_integrity import RESTORE
from runtime.db.sqlite_log import Log
from runtime.db.sqlite_readers import Readers, break_off
from runtime.db.sqlite_wal import WAL_BUSY_MS, WAL_LIMIT, WAL_SECONDS, Wal
from runtime.db.url import DatabaseUrl
from runtime.errors import (
    CommitUnknown,
    DatabaseDamaged,
    DatabaseError,
    DatabaseUnavailable,
    FileDamaged,
    StartupError,
)
from runtime.uncancellable import run_to_completion

logger = logging.getLogger("agent_runtime.db")

# The first that has the operator ->>.
OLDEST_SQLITE = (3, 38)
# A reader takes and gives up the interpreter's lock with each row: four of them list half the sessions that
# two do, and these leave one free while the other is at something long.
MAX_READERS = 2

WRITER_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA foreign_keys = ON",
    # What is deleted is overwritten in the file: some builds of SQLite do so by default, and others not.
    "PRAGMA secure_delete = ON",
    # Its errors would be lost: see CHECKPOINT_FRAMES.
    "PRAGMA wal_autocheckpoint = 0",
    f"PRAGMA journal_size_limit = {WAL_LIMIT}",
)
# Beside the owner of a file: a commit leaves checkpoints to the owner, and waits for its turn between
# two of the owner's transactions. (Older versions of SQLite can damage a file when a commit and a checkpoint
# of two connections meet in one instant; `agent-runtime token` commits once, by hand: so much of it remains.)
GUEST_PRAGMAS = ("PRAGMA foreign_keys = ON", "PRAGMA wal_autocheckpoint = 0", "PRAGMA busy_timeout = 10000")
READER_PRAGMAS = ("PRAGMA query_only = ON",)
# W5: an acknowledged transaction survives power loss, a buffered one may not.
SYNCHRONOUS = {True: "PRAGMA synchronous = FULL", False: "PRAGMA synchronous = NORMAL"}


async def list_applied(url: DatabaseUrl) -> list[str]:
    """The ids of the migrations that the file has; none where there is no file. Writes nothing.

    It is the first that is asked of a database: StartupError says when it cannot be used.
    """
    return await run_to_completion(_list_applied(url))


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
        wrong = translate(error)
        if isinstance(wrong, DatabaseDamaged):
            raise FileDamaged(url.address, [str(error)], RESTORE) from error
        raise StartupError(f"DB_URL: cannot read {url}: {wrong}") from error
    finally:
        await close(connection)


class SqliteDatabase:
    """A SQLite file that this process owns (W13)."""

    dialect: Dialect = "sqlite"
    sole_writer = True

    def __init__(self, url: DatabaseUrl, limits: PoolLimits, lock: LockFile | None) -> None:
        self.instance = f"agent-runtime {uuid.uuid4().hex}"
        self._path = url.address
        self._limits = limits
        self._lock = lock
        self._queries = load_queries("sqlite")
        self._slow = SlowLog(limits.slow_query_ms)
        self._readers = Readers(
            lambda: connect(url.address, READER_PRAGMAS),
            min(limits.pool_max, MAX_READERS),
            limits.pool_timeout,
        )
        self._snapshots = Readers(
            lambda: connect(url.address, READER_PRAGMAS), MAX_SNAPSHOTS, limits.pool_timeout
        )
        self._turn = asyncio.Lock()
        self._writer: WritingConnection | None = None
        self._durable: bool | None = None
        self._closed = False
        self._checkpointing: asyncio.Task[None] | None = None
        self._checkpoint_due = asyncio.Event()
        self._wal = Wal(url.address)
        self._log = Log(url.address)
        self._damage = ""

    @classmethod
    async def open(cls, url: DatabaseUrl, limits: PoolLimits, lock: LockFile | None) -> SqliteDatabase:
        """Open the file, whose lock is held and is given up by `close`. Raises StartupError.

        Without a lock another process owns the file, and alone checkpoints it.
        """
        database = cls(url, limits, lock)
        try:
            await run_to_completion(database._open_writer())
            if lock is not None:
                database._log.open()
                lock.note_opened()
        except BaseException as error:
            await database.close()
            if isinstance(error, (DatabaseError, sqlite3.Error, OSError)):
                raise StartupError(f"DB_URL: cannot open {url}: {error}") from error
            raise
        if lock is not None:
            database._checkpointing = asyncio.create_task(database._checkpoint_regularly())
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
            writing = await self._writing_connection()
            committing = False
            try:
                await self._begin(writing, durable)
                yield SqliteTransaction(writing, self._queries, self._slow, self._limits.command_timeout)
                committing = True
                await self._commit(writing)
            except BaseException as error:
                if isinstance(error, DatabaseDamaged):
                    self._note_damage(error)
                is_gone = await run_to_completion(self._clean_up(writing, error))
                if committing and not is_gone and isinstance(error, Exception):
                    raise CommitUnknown(str(error)) from error
                raise
            if self._log.is_checkpoint_due():
                self._checkpoint_due.set()

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[SqliteSnapshot]:
        """Reads of one moment: see `Database.snapshot`."""
        async with self._snapshots.connection() as connection:
            try:
                await translated(connection.execute_fetchall("BEGIN"))
                yield SqliteSnapshot(connection, self._queries, self._slow, self._limits.command_timeout)
            except DatabaseDamaged as error:
                self._note_damage(error)
                raise
            finally:
                await run_to_completion(break_off(connection))

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
            await self._checkpoint("TRUNCATE")
        self._wal.note()

    async def vacuum(self) -> None:
        """Rewrite the file, and empty the WAL, which holds the old pages as well."""
        async with self._turn:
            await self._run_outside([self._queries["vacuum"].sql])
        await self._checkpoint("TRUNCATE")

    async def _checkpoint(self, mode: str) -> None:
        async with self._turn:
            await self._run_outside(
                [
                    f"PRAGMA busy_timeout = {WAL_BUSY_MS}",
                    f"PRAGMA wal_checkpoint({mode})",
                    f"PRAGMA busy_timeout = {BUSY_STEP * 1000:.0f}",
                ]
            )
            self._log.note_checkpoint()

    async def _run_outside(self, statements: Sequence[str]) -> None:
        """Run statements that stand outside of transactions, in the turn of one."""
        writing = await self._writing_connection()
        try:
            for statement in statements:
                await translated(writing.connection.execute_fetchall(statement))
        except BaseException as error:
            await run_to_completion(self._clean_up(writing, error))
            raise

    def _note_damage(self, error: DatabaseDamaged) -> None:
        """Nothing more is written to a file that is damaged; what can be read of it is."""
        if not self._damage:
            self._damage = str(error)
            logger.error("%s: %s; it takes no more writes, restore a backup", self._path, error)

    async def close(self, timeout: float = 0) -> None:
        """Close every connection and give up the file. No statement here waits long for another."""
        if not self._closed:
            self._closed = True
            await run_to_completion(self._close_all())

    async def _close_all(self) -> None:
        if self._checkpointing is not None:
            self._checkpointing.cancel()
            await asyncio.wait([self._checkpointing])
        # The writer last: the last one to close brings the WAL back into the file, and only it may.
        await self._readers.close()
        await self._snapshots.close()
        with suppress(DatabaseError):
            await self._make_whole()
        self._log.release()
        if self._writer is not None:
            await close(self._writer.connection)
        self._log.close()
        if self._lock is not None:
            self._lock.release()

    async def _writing_connection(self) -> WritingConnection:
        if self._closed:
            raise DatabaseUnavailable("the database is closed")
        if self._damage:
            raise DatabaseDamaged(self._damage)
        await run_to_completion(self._make_whole())
        if self._writer is None:
            return await run_to_completion(self._open_writer())
        return self._writer

    async def _open_writer(self) -> WritingConnection:
        pragmas = WRITER_PRAGMAS if self._lock is not None else GUEST_PRAGMAS
        self._writer = writing = await connect_to_write(self._path, pragmas)
        self._durable = None
        return writing

    async def _begin(self, writing: WritingConnection, durable: bool) -> None:
        if durable is not self._durable:
            self._durable = None
            await translated(writing.connection.execute_fetchall(SYNCHRONOUS[durable]))
            self._durable = durable
        # Not staged: this is where it waits for the file, and what waits here is not under way (W8).
        await begin(writing.connection)

    async def _commit(self, writing: WritingConnection) -> None:
        seconds = self._limits.command_timeout
        try:
            async with asyncio.timeout(seconds):
                await translated(writing.connection.commit())
        except TimeoutError as error:
            await run_to_completion(break_off(writing.connection))
            if not writing.staging.committed:
                raise DatabaseUnavailable(f"a transaction took longer than {seconds:g} s") from error

    async def _clean_up(self, writing: WritingConnection, error: BaseException) -> bool:
        """Roll back; whether the transaction is then known to be gone, now and after a crash (W14).

        The connection is usable afterwards, or given up.
        """
        staging = writing.staging
        await break_off(writing.connection)
        if staging.io_error and self._lock is not None:
            self._log.note_error(staging.io_error)
        # One that was opened while the disk was read-only would stay so.
        if not staging.is_usable() or is_read_only(error):
            await self._give_up(writing)
        try:
            await self._make_whole()
        except DatabaseError as reason:
            logger.warning("%s: %s", self._path, reason)
        return not staging.torn or (self._lock is not None and not self._log.doubt)

    async def _give_up(self, writing: WritingConnection) -> None:
        """The next transaction opens another."""
        self._writer = None
        await close(writing.connection)

    async def _make_whole(self) -> None:
        """W14: after an I/O error nothing is confirmed before all of the WAL is on the disk once more."""
        if not self._log.doubt:
            return
        writing = self._writer or await self._open_writer()
        try:
            # Another process must not write meanwhile.
            await begin(writing.connection)
            await asyncio.to_thread(self._log.make_whole)
            await translated(writing.connection.rollback())
        except DatabaseError as error:
            await self._give_up(writing)
            if isinstance(error, DatabaseDamaged):
                self._note_damage(error)
                raise
            raise DatabaseUnavailable(self._log.explain(str(error))) from error

    async def _checkpoint_regularly(self) -> None:
        now = asyncio.get_running_loop().time
        truncate_at = now() + WAL_SECONDS
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(truncate_at):
                    await self._checkpoint_due.wait()
            self._checkpoint_due.clear()
            try:
                if now() < truncate_at:
                    await self._checkpoint("PASSIVE")
                else:
                    truncate_at = now() + WAL_SECONDS
                    await self.truncate_wal()
            except DatabaseError as error:
                logger.warning("the WAL of %s could not be cut back: %s", self._path, error)
