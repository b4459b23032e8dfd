"""What is SQLite's alone: its files, its threads, its durability, its errors."""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest

from runtime.db import sqlite, sqlite_dialect, sqlite_wal
from runtime.db.database import PoolLimits
from runtime.db.lockfile import LockFile
from runtime.db.sqlite import SqliteDatabase
from runtime.db.sqlite_connection import BUSY_STEP
from runtime.db.url import DatabaseUrl
from runtime.errors import (
    DatabaseConflict,
    DatabaseDamaged,
    DatabaseError,
    DatabaseUnavailable,
    DataRefused,
    StartupError,
)
from tests.support.database_locks import slow_to_insert
from tests.support.database_rows import aiosqlite_threads, insert_session, message_row, session_ids, until

pytestmark = pytest.mark.slow

# What is broken off would take hours, and what holds up nobody no time; a busy machine may take a while.
PATIENCE = 30
LIMITS = PoolLimits(pool_min=1, pool_max=2, pool_timeout=1, command_timeout=5, slow_query_ms=1e9)


@pytest.fixture
def path(sqlite_url: str) -> Path:
    return Path(sqlite_url.removeprefix("sqlite:///"))


async def open_path(path: Path) -> SqliteDatabase:
    return await SqliteDatabase.open(DatabaseUrl("sqlite", str(path)), LIMITS, LockFile.take(path))


async def pragma(database: SqliteDatabase, name: str) -> object:
    assert database._writer is not None
    [row] = await database._writer.connection.execute_fetchall(f"PRAGMA {name}")
    return row[0]


async def test_w5_only_a_buffered_transaction_may_be_lost_in_a_power_cut(path: Path) -> None:
    database = await open_path(path)
    for durable, synchronous in ((True, 2), (False, 1), (False, 1), (True, 2)):
        async with database.transaction(durable=durable) as transaction:
            await transaction.fetch("ping")
        assert await pragma(database, "synchronous") == synchronous
    assert await pragma(database, "journal_mode") == "wal"
    assert await pragma(database, "foreign_keys") == 1
    await database.close()


async def test_w1_the_connections_that_read_cannot_write(path: Path) -> None:
    database = await open_path(path)
    with pytest.raises(DatabaseUnavailable, match="readonly"):
        await database.fetch("delete_session", 1)
    await database.close()


async def test_the_wal_is_cut_back_when_it_has_grown(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_wal, "WAL_LIMIT", 100_000)
    database = await open_path(path)
    wal = Path(f"{path}-wal")
    async with database.transaction() as transaction:
        await insert_session(transaction, 1)
        await transaction.execute_many(
            "insert_message", [message_row(1, seq, '"' + "x" * 1000 + '"') for seq in range(1, 500)]
        )
    assert wal.stat().st_size > 100_000
    await database.truncate_wal()
    assert wal.stat().st_size == 0
    assert len(await database.fetch("list_messages_after", 1, 0, 1000)) == 499
    assert await pragma(database, "busy_timeout") == BUSY_STEP * 1000
    await database.close()


async def test_close_brings_all_of_the_wal_into_the_file(path: Path) -> None:
    database = await open_path(path)
    await asyncio.gather(*(database.fetch("ping") for _ in range(5)))
    async with database.transaction() as transaction:
        await insert_session(transaction, 1)
    await database.close()
    assert sorted(each.name for each in path.parent.iterdir()) == [path.name, f"{path.name}.lock"]


async def test_no_thread_outlives_a_database_that_cannot_be_read(path: Path) -> None:
    threads = aiosqlite_threads()
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 4096)
    with pytest.raises(StartupError, match=r"^DB_URL: .*agent_runtime.db is damaged"):
        await sqlite.list_applied(DatabaseUrl("sqlite", str(path)))
    await until(lambda: aiosqlite_threads() == threads)


async def test_a_read_that_is_cancelled_frees_its_connection(path: Path) -> None:
    database = await open_path(path)
    for _ in range(5):
        reading = asyncio.create_task(database.fetch("allocate_session_ids", 30_000_000))
        await asyncio.sleep(0.01)
        reading.cancel()
        await asyncio.wait([reading])
    async with asyncio.timeout(2):
        assert (await database.fetch("ping"))[0]["ok"] == 1
    assert await session_ids(database) == []
    await database.close()


async def test_w14_a_log_with_other_content_takes_no_more_writes(path: Path) -> None:
    """Some file systems go back to what the disk has when a sync fails."""
    database = await open_path(path)
    for number in (1, 2):
        async with database.transaction() as transaction:
            await insert_session(transaction, number)
    database._log.note_error("disk I/O error")
    async with database.transaction() as transaction:
        await insert_session(transaction, 3)
    wal = Path(f"{path}-wal")
    with wal.open("r+b") as file:
        file.seek(wal.stat().st_size - 100)
        file.write(b"\xaa" * 50)
    database._log.note_error("disk I/O error")
    for _ in range(2):
        with pytest.raises(DatabaseDamaged, match="its WAL has lost what was written to it"):
            async with database.transaction():
                pass
    assert "WAL" in database.fault()
    await database.close()
    # What the log still held was not brought into the file.
    assert wal.stat().st_size


# A statement that runs too long is broken off, also one that writes.


async def open_impatiently(path: Path) -> SqliteDatabase:
    url, limits = DatabaseUrl("sqlite", str(path)), dataclasses.replace(LIMITS, command_timeout=2.0)
    return await SqliteDatabase.open(url, limits, LockFile.take(path))


async def read_slowly(database: SqliteDatabase) -> None:
    async with database.transaction() as transaction:
        await insert_session(transaction, 1)
        await transaction.fetch("allocate_session_ids", 10**12)


async def write_slowly(database: SqliteDatabase) -> None:
    async with database.transaction() as transaction:
        await insert_session(transaction, 1)
        await transaction.execute_many("insert_message", [message_row(1, 1, '"slow"')])


async def check_that_nothing_is_held_up(database: SqliteDatabase) -> None:
    async with database.transaction() as transaction:
        await insert_session(transaction, 2)
    assert await session_ids(database) == [2]
    await database.close()


@pytest.mark.parametrize(
    ("run", "told"), [(read_slowly, "allocate_session_ids"), (write_slowly, "a transaction")]
)
async def test_r7_a_slow_statement_of_a_transaction_is_interrupted(
    sqlite_url: str, path: Path, run: Callable[[SqliteDatabase], Awaitable[None]], told: str
) -> None:
    """It ran to its end, and nobody else could write meanwhile."""
    await slow_to_insert(sqlite_url)
    database = await open_impatiently(path)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(DatabaseUnavailable, match=rf"{told} took longer than 2 s"):
            await run(database)
        await check_that_nothing_is_held_up(database)


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.1])
@pytest.mark.parametrize("run", [read_slowly, write_slowly])
async def test_r7_a_statement_whose_caller_is_cancelled_is_broken_off(
    sqlite_url: str, path: Path, run: Callable[[SqliteDatabase], Awaitable[None]], seconds: float
) -> None:
    await slow_to_insert(sqlite_url)
    database = await open_path(path)
    task = asyncio.ensure_future(run(database))
    await asyncio.sleep(seconds)
    task.cancel()
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait([task])
        assert task.cancelled()
        await check_that_nothing_is_held_up(database)


# Errors, as SQLite itself raises them.


def refuse_unique(connection: sqlite3.Connection) -> None:
    connection.execute(
        "CREATE TABLE t (id integer PRIMARY KEY, k text UNIQUE, n text NOT NULL CHECK (n <> ''))"
    )
    connection.execute("INSERT INTO t VALUES (1, 'k', 'n')")
    connection.execute("INSERT INTO t VALUES (2, 'k', 'n')")


def refuse_null(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE t (n text NOT NULL)")
    connection.execute("INSERT INTO t VALUES (NULL)")


def fill(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA max_page_count = 2")
    connection.execute("CREATE TABLE t AS SELECT zeroblob(100000)")


def write_while_locked(connection: sqlite3.Connection) -> None:
    path = connection.execute("PRAGMA database_list").fetchone()[2]
    connection.execute("BEGIN IMMEDIATE")
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")


def write_readonly(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA query_only = ON")
    connection.execute("CREATE TABLE t (n)")


def open_missing(connection: sqlite3.Connection) -> None:
    with closing(sqlite3.connect("file:/nowhere/at/all.db?mode=ro", uri=True)) as other:
        other.execute("SELECT 1")


def use_closed(connection: sqlite3.Connection) -> None:
    connection.close()
    connection.execute("SELECT 1")


def ask_nonsense(connection: sqlite3.Connection) -> None:
    connection.execute("SELECT * FROM no_table_of_this_name")


def bind_too_big(connection: sqlite3.Connection) -> None:
    connection.execute("SELECT ?", (2**63,))


def bind_object(connection: sqlite3.Connection) -> None:
    connection.execute("SELECT ?", (object(),))


@pytest.mark.parametrize(
    ("doing", "kind"),
    [
        (refuse_unique, DatabaseConflict),
        (refuse_null, DataRefused),
        (fill, DatabaseUnavailable),
        (write_while_locked, DatabaseUnavailable),
        (write_readonly, DatabaseUnavailable),
        (open_missing, DatabaseUnavailable),
        (use_closed, DatabaseUnavailable),
        (ask_nonsense, DatabaseError),
        (bind_too_big, DataRefused),
        (bind_object, DataRefused),
    ],
)
def test_an_error_is_translated_by_what_it_means(
    tmp_path: Path, doing: Callable[[sqlite3.Connection], None], kind: type[DatabaseError]
) -> None:
    with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as connection:
        with pytest.raises(sqlite_dialect.DRIVER_ERRORS) as raised:
            doing(connection)
        assert type(sqlite_dialect.translate(raised.value)) is kind
