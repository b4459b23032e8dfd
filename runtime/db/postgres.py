"""Postgres, by asyncpg: a pool that reads, one connection that writes, one that listens.

A connection in which anything was left unclear is broken off (`terminate`), never used again: nothing that
was sent over it can be committed later, but for a COMMIT that was under way (W7).
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar, cast

import asyncpg

from runtime.db.database import MAX_SNAPSHOTS, Dialect, PoolLimits, Row
from runtime.db.foreign import OUR_TABLES, check_ours
from runtime.db.listener import Listener
from runtime.db.queries import Queries, Query, load_queries
from runtime.db.slowlog import SlowLog, now
from runtime.db.url import DatabaseUrl
from runtime.errors import (
    CommitUnknown,
    DatabaseConflict,
    DatabaseError,
    DatabaseUnavailable,
    DataRefused,
    StartupError,
)
from runtime.uncancellable import run_to_completion

logger = logging.getLogger("agent_runtime.db")

OLDEST_POSTGRES = 13
# Seconds: to connect before there are any settings, to roll back, to close.
FIRST_CONNECT_SECONDS = 10.0
ROLLBACK_SECONDS = 1.0
CLOSE_SECONDS = 5.0
# The most that rewriting all tables may take: it grows with them, and an operator waits for it.
VACUUM_SECONDS = 7 * 86_400.0

ISOLATION = "read committed"
SESSION = {
    "TimeZone": "UTC",
    # W5: what is acknowledged survives, whatever the server's own default is.
    "synchronous_commit": "on",
    # A batch locks its heads and reads what they are after the wait: a snapshot from before it, which a role
    # or a database may have as its default, would make each wait a conflict. Whether transactions may write
    # at all is left to the server: operators set that default where a disk is full.
    "default_transaction_isolation": ISOLATION,
    # A line that goes dead without a word must not hold its locks until TCP notices, hours later.
    "idle_in_transaction_session_timeout": "5s",
    # Every join in sql/ looks a few rows up by key. The planner takes a JSON array for a hundred rows and
    # would rather read all of a table of ten thousand for them: 12 ms instead of 0.5 ms in each batch.
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    # Nor would a page of fifty be worth a parallel worker, which takes 7 ms to begin.
    "max_parallel_workers_per_gather": "0",
    # Every statement has one good plan. Postgres would look a few times whether another one is better, and
    # plan what takes arrays anew each time.
    "plan_cache_mode": "force_generic_plan",
}

# A snapshot is idle while a page of it is written to a disk, which may be slow. It holds no locks.
SNAPSHOT_SESSION = {**SESSION, "idle_in_transaction_session_timeout": "60s"}

# The fewest rows that are written by COPY. Of 8 rows COPY takes 0.31 ms and executemany 0.39 ms, of 256 rows
# 3.8 ms and 6.8 ms.
LEAST_COPIED = 8

# asyncpg raises the errors of the server, errors of its own, and what the network raises.
DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
# The connection is gone, and the statement may have run or not: another connection may serve it.
BROKEN = (
    ConnectionResetError,
    BrokenPipeError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
)
CONFLICTS = (
    asyncpg.UniqueViolationError,
    asyncpg.TransactionRollbackError,
    asyncpg.LockNotAvailableError,
    asyncpg.InvalidCachedStatementError,
    asyncpg.OutdatedSchemaCacheError,
)
# A migration was taken back under us: it comes back with the next.
MIGRATING = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError)
# Classes of SQLSTATE, see "PostgreSQL Error Codes" in its documentation.
REFUSED_CLASSES = {"22", "23", "54"}
UNAVAILABLE_CLASSES = {"08", "25", "28", "3D", "53", "57", "58", "F0", "XX"}

Result = TypeVar("Result")


def translate(error: Exception) -> DatabaseError:
    """What a driver's error means in our terms."""
    # Without its DETAIL and HINT: they repeat the row, and this is logged.
    said = error.args[0] if isinstance(error, asyncpg.PostgresError) and error.args else error
    reason = " ".join(str(said).split()) or "no answer in time"
    if isinstance(error, CONFLICTS):
        return DatabaseConflict(reason)
    if isinstance(error, ValueError):
        # asyncpg could not encode a parameter.
        return DataRefused(reason)
    if not isinstance(error, asyncpg.PostgresError) or isinstance(error, MIGRATING):
        return DatabaseUnavailable(reason)
    state = (error.sqlstate or "08")[:2]
    if state in UNAVAILABLE_CLASSES:
        return DatabaseUnavailable(reason)
    return DataRefused(reason) if state in REFUSED_CLASSES else DatabaseError(reason)


async def _translated(awaitable: Awaitable[Result]) -> Result:
    try:
        return await awaitable
    except DRIVER_ERRORS as error:
        raise translate(error) from error


async def list_applied(url: DatabaseUrl) -> list[str]:
    """The ids of the migrations that the database has; writes nothing.

    It is the first that is asked of a database: StartupError says when it cannot be reached or used, and
    ForeignDatabase when its tables are not ours.
    """
    try:
        connection = await asyncpg.connect(
            url.address, timeout=FIRST_CONNECT_SECONDS, command_timeout=FIRST_CONNECT_SECONDS
        )
    except (*DRIVER_ERRORS, ValueError) as error:
        raise _cannot_open(url, error) from error
    try:
        _check_server(url, connection)
        queries = load_queries("postgres")
        check_ours(str(url), await connection.fetch(queries["list_columns"].sql, OUR_TABLES))
        return [row[0] for row in await connection.fetch(queries["list_applied_migrations"].sql)]
    except asyncpg.UndefinedTableError:
        return []
    except DRIVER_ERRORS as error:
        raise _cannot_open(url, error) from error
    finally:
        await run_to_completion(_close(connection))


def _check_server(url: DatabaseUrl, connection: Any) -> None:
    version, encoding = connection.get_server_version(), connection.get_settings().server_encoding
    if version.major < OLDEST_POSTGRES:
        raise StartupError(f"DB_URL: {url} is Postgres {version.major}; {OLDEST_POSTGRES} or later is needed")
    if encoding != "UTF8":
        raise StartupError(f"DB_URL: the encoding of {url} is {encoding}; UTF8 is needed")


def _cannot_open(url: DatabaseUrl, error: Exception) -> StartupError:
    return StartupError(f"DB_URL: cannot open {url}: {translate(error)}")


async def _close(connection: Any) -> None:
    with suppress(*DRIVER_ERRORS):
        await connection.close(timeout=ROLLBACK_SECONDS)


async def _keep(connection: Any) -> None:
    """Reset nothing: a read leaves nothing behind, and asyncpg's reset is a round trip each time."""


class PostgresTransaction:
    """The write transaction while it is open."""

    def __init__(self, connection: Any, queries: Queries, slow: SlowLog) -> None:
        self._connection = connection
        self._queries = queries
        self._slow = slow

    async def fetch(self, statement: str, *parameters: object) -> Sequence[Row]:
        """Run a statement by name and return all of its rows."""
        started = now()
        try:
            sql = self._queries[statement].sql
            return cast(Sequence[Row], await self._connection.fetch(sql, *parameters))
        except DRIVER_ERRORS as error:
            raise translate(error) from error
        finally:
            self._slow.note(statement, started)

    async def execute_many(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        """Run a statement by name once for each row of parameters."""
        started = now()
        try:
            await self._execute_many(self._queries[statement], rows)
        except DRIVER_ERRORS as error:
            raise translate(error) from error
        finally:
            self._slow.note(statement, started)

    async def _execute_many(self, query: Query, rows: Sequence[Sequence[object]]) -> None:
        if query.as_arrays:
            done = await self._connection.execute(query.sql, *zip(*rows, strict=True))
            if query.checks_rows and int(done.rpartition(" ")[2]) != len(rows):
                raise DatabaseConflict(f"another instance came before {query.name}")
        elif query.copy_into and len(rows) >= LEAST_COPIED:
            await self._copy(query.copy_into, query.parameters, rows)
        elif len(rows) == 1:
            # In 80 µs instead of 95: each batch has such a statement, and a lone write has hardly another.
            await self._connection.execute(query.sql, *rows[0])
        else:
            await self._connection.executemany(query.sql, rows)

    async def _copy(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        try:
            await self._connection.copy_records_to_table(table, records=rows, columns=columns)
        except (TypeError, ValueError, OverflowError) as error:
            # asyncpg could not encode a value; elsewhere it raises an error of its own for that.
            raise DataRefused(str(error)) from error


class PostgresDatabase:
    """A Postgres database, which other instances may use as well."""

    dialect: Dialect = "postgres"
    sole_writer = False

    def __init__(self, url: DatabaseUrl, limits: PoolLimits) -> None:
        self.instance = f"agent-runtime {uuid.uuid4().hex}"
        self._url = url
        self._limits = limits
        self._queries = load_queries("postgres")
        self._slow = SlowLog(limits.slow_query_ms)
        self._connecting: dict[str, Any] = {
            "dsn": url.address,
            "timeout": limits.pool_timeout,
            "command_timeout": limits.command_timeout,
            "server_settings": {**SESSION, "application_name": self.instance},
        }
        self._turn = asyncio.Lock()
        self._snapshot_turns = asyncio.Semaphore(MAX_SNAPSHOTS)
        self._snapshots: set[Any] = set()
        self._writer: Any = None
        self._listener: Listener | None = None
        self._listening: set[asyncio.Task[None]] = set()
        self._closed = False
        self._pool = asyncpg.create_pool(
            min_size=min(limits.pool_min, limits.pool_max),
            max_size=limits.pool_max,
            reset=_keep,
            **self._connecting,
        )

    @classmethod
    async def open(cls, url: DatabaseUrl, limits: PoolLimits) -> PostgresDatabase:
        """Open the pool; the other connections follow when they are needed. Raises StartupError."""
        database = cls(url, limits)
        try:
            await run_to_completion(database._open_pool())
        except DRIVER_ERRORS as error:
            raise _cannot_open(url, error) from error
        except BaseException:
            await database.close()
            raise
        return database

    async def fetch(self, statement: str, *parameters: object) -> Sequence[Row]:
        """Run a reading statement by name; return all rows."""
        for _ in range(self._limits.pool_max):
            try:
                return await self._read(statement, parameters)
            except DatabaseUnavailable as error:
                # A server that restarts breaks all of the pool: a read goes on to a connection that is well.
                if not isinstance(error.__cause__, BROKEN):
                    raise
        return await self._read(statement, parameters)

    async def _read(self, statement: str, parameters: Sequence[object]) -> Sequence[Row]:
        connection = await self._acquire()
        try:
            return await PostgresTransaction(connection, self._queries, self._slow).fetch(
                statement, *parameters
            )
        except (DatabaseUnavailable, asyncio.CancelledError):
            # asyncpg would wait for this answer, which may never come, before the next use of the connection.
            with suppress(asyncpg.InterfaceError):  # It is given back already where the pool has closed.
                connection.terminate()
            raise
        finally:
            # Where giving back fails, asyncpg has broken the connection off; what was read is read.
            with suppress(*DRIVER_ERRORS):
                await self._pool.release(connection, timeout=ROLLBACK_SECONDS)

    async def _acquire(self) -> Any:
        seconds = self._limits.pool_timeout
        try:
            return await self._pool.acquire(timeout=seconds)
        except TimeoutError as error:
            reason = f"no connection for reading came free in {seconds:g} s"
            raise DatabaseUnavailable(reason) from error
        except DRIVER_ERRORS as error:
            raise translate(error) from error

    @asynccontextmanager
    async def transaction(self, *, durable: bool = True) -> AsyncIterator[PostgresTransaction]:
        """The one write transaction: see `Database.transaction`."""
        async with self._turn:
            connection = await self._writing_connection()
            try:
                await _translated(connection.execute("BEGIN"))
                yield PostgresTransaction(connection, self._queries, self._slow)
            except BaseException as error:
                await run_to_completion(self._roll_back(connection, error))
                raise
            await self._commit(connection)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[PostgresTransaction]:
        """Reads of one moment: see `Database.snapshot`."""
        seconds = self._limits.pool_timeout
        try:
            async with asyncio.timeout(seconds):
                await self._snapshot_turns.acquire()
        except TimeoutError as error:
            raise DatabaseUnavailable(f"no snapshot ended in {seconds:g} s") from error
        try:
            connection = await self._open_snapshot()
            try:
                yield PostgresTransaction(connection, self._queries, self._slow)
            finally:
                self._snapshots.discard(connection)
                await run_to_completion(_close(connection))
        finally:
            self._snapshot_turns.release()

    async def _open_snapshot(self) -> Any:
        if self._closed:
            raise DatabaseUnavailable("the database is closed")
        settings = {**SNAPSHOT_SESSION, "application_name": self.instance}
        connection = await _translated(asyncpg.connect(**{**self._connecting, "server_settings": settings}))
        self._snapshots.add(connection)
        await _translated(connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
        return connection

    def listen(self, on_payload: Callable[[str], None], on_gap: Callable[[], None]) -> None:
        """Call `on_payload` with each notification, `on_gap` after each (re)connect."""
        self._listener = Listener(self._connect, self._queries["ping"].sql, on_payload, on_gap)
        self._listening.add(asyncio.create_task(self._listener.run()))

    def was_lost(self, seconds: float) -> bool:
        """Whether the server was away within so many seconds, as far as the listener knows."""
        return self._listener is not None and self._listener.was_lost(seconds)

    def wal_bytes(self) -> int:
        """Nothing of ours."""
        return 0

    async def vacuum(self) -> None:
        """Rewrite the tables, each under a lock against everything."""
        async with self._turn:
            connection = await self._writing_connection()
            try:
                await _translated(connection.execute(self._queries["vacuum"].sql, timeout=VACUUM_SECONDS))
            except BaseException:
                connection.terminate()
                raise

    def fault(self) -> str:
        """Nothing: what is wrong with the server shows in its answers."""
        return ""

    def pool_usage(self) -> dict[str, int]:
        """The connections for reading: how many are `idle`, how many `busy`."""
        idle = self._pool.get_idle_size()
        return {"idle": idle, "busy": self._pool.get_size() - idle}

    async def close(self, timeout: float = CLOSE_SECONDS) -> None:
        """Close every connection; what is still in use after `timeout` seconds is broken off."""
        if not self._closed:
            self._closed = True
            await run_to_completion(self._close_all(timeout))

    async def _close_all(self, timeout: float) -> None:
        for snapshot in self._snapshots:
            snapshot.terminate()
        for task in self._listening:
            task.cancel()
        await asyncio.gather(*self._listening, return_exceptions=True)
        try:
            async with asyncio.timeout(timeout):
                if self._writer is not None:
                    await _close(self._writer)
                await self._pool.close()
        except DRIVER_ERRORS:
            # The pool has broken its own off by itself.
            if self._writer is not None:
                self._writer.terminate()
            logger.warning("connections of %s were still in use when it was closed", self._url)

    async def _open_pool(self) -> None:
        await self._pool

    async def _writing_connection(self) -> Any:
        if self._closed:
            raise DatabaseUnavailable("the database is closed")
        if self._writer is None or self._writer.is_closed():
            self._writer = await self._connect()
        return self._writer

    async def _connect(self) -> Any:
        return await _translated(asyncpg.connect(**self._connecting))

    async def _commit(self, connection: Any) -> None:
        try:
            status = await connection.execute("COMMIT")
        except BaseException as error:
            if isinstance(error, asyncpg.PostgresError) and error.severity_en == "ERROR":
                # By the server's own error: the transaction is gone, the connection is usable.
                raise translate(error) from error
            connection.terminate()
            if isinstance(error, DRIVER_ERRORS):
                raise CommitUnknown(str(translate(error))) from error
            raise
        if status != "COMMIT":
            raise DatabaseError("the transaction was rolled back: a statement in it had failed")

    async def _roll_back(self, connection: Any, cause: BaseException) -> None:
        if isinstance(cause, asyncio.CancelledError):
            # W11: a cancelled shutdown has no time left to wait for a server that may not answer.
            connection.terminate()
            return
        if isinstance(cause.__cause__, asyncpg.ReadOnlySQLTransactionError):
            # After a failover: the connections stick to a server that is not the primary any more.
            connection.terminate()
            await self._pool.expire_connections()
            return
        try:
            async with asyncio.timeout(ROLLBACK_SECONDS):
                await connection.execute("ROLLBACK")
        except DRIVER_ERRORS:
            connection.terminate()
