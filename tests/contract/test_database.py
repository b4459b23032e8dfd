"""What every database of ours does, on SQLite and on Postgres."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from runtime.db.connect import open_database
from runtime.db.database import Database
from runtime.errors import (
    DatabaseConflict,
    DatabaseError,
    DatabaseInUse,
    DatabaseUnavailable,
    DataRefused,
    SettingsError,
    StartupError,
)
from runtime.store.store import open_store
from tests.support.database_rows import (
    FAR,
    NOON,
    aiosqlite_threads,
    insert_session,
    message_row,
    session_ids,
    session_row,
    until,
)

pytestmark = pytest.mark.slow

CONTENTS = [
    '"a NUL \\u0000 in the middle"',
    '"emoji 🙂 and \\ud83d\\ude42, ümlaut, \u2028"',
    '{"big": 123456789012345678901234567890, "small": 1e-400, "exact": 0.1000000000000000000001}',
    '[{"type":"text","text":"part"},{"deep":' + "[" * 500 + "]" * 500 + "}]",
    '{"b": 1,   "a": 2, "a": 3}',
    "null",
]
TIMES = [
    NOON,
    datetime(1, 1, 2, tzinfo=UTC),
    datetime(9999, 12, 30, 23, 59, 59, 999999, tzinfo=UTC),
    datetime(2026, 3, 29, 3, 30, tzinfo=timezone(timedelta(hours=5, minutes=45))),
]


# Values


@pytest.mark.parametrize("content", CONTENTS, ids=range(len(CONTENTS)))
async def test_json_comes_back_to_the_letter(database: Database, content: str) -> None:
    async with database.transaction() as transaction:
        await insert_session(transaction, 1)
        await transaction.execute_many("insert_message", [message_row(1, 1, content)])
    [row] = await database.fetch("list_messages_after", 1, 0, 10)
    assert row["content"] == content


@pytest.mark.parametrize("time", TIMES, ids=str)
async def test_a_time_comes_back_as_the_same_instant_in_utc(database: Database, time: datetime) -> None:
    async with database.transaction() as transaction:
        await transaction.execute_many("insert_session", [session_row(1, at=time)])
    [row] = await database.fetch("list_heads", '[["", "s1"]]')
    assert row["last_activity"] == time
    assert row["last_activity"].utcoffset() == timedelta(0)


async def test_times_are_in_order_whatever_their_zone(database: Database) -> None:
    later = NOON + timedelta(microseconds=1)
    east = later.astimezone(timezone(timedelta(hours=-11)))
    async with database.transaction() as transaction:
        await transaction.execute_many("insert_session", [session_row(1, at=east), session_row(2)])
    rows = await database.fetch("list_idle_sessions", later + timedelta(microseconds=1), "", 10)
    assert [row["session_id"] for row in rows] == ["s2", "s1"]


async def test_big_numbers_truth_and_nothing_come_back(database: Database) -> None:
    async with database.transaction() as transaction:
        await transaction.execute_many("insert_session", [session_row(FAR)])
        await transaction.execute_many("insert_agent_context", [[FAR, "coder", NOON, NOON, 2**53 + 1, "{}"]])
    [row] = await database.fetch("find_session", "", f"s{FAR}")
    assert (row["id"], row["is_active"], row["deleted_at"]) == (FAR, True, None)
    [context] = await database.fetch("find_agent_context", FAR)
    assert context["switch_count"] == 2**53 + 1


async def test_lists_go_in_as_json(database: Database) -> None:
    async with database.transaction() as transaction:
        await transaction.execute_many("insert_session", [session_row(1), session_row(2, owner="ü'\"")])
        rows = await transaction.fetch("lock_heads", '[["", "s1"], ["ü\'\\"", "s2"], ["", "s2"]]')
    assert [(row["id"], row["owner"]) for row in rows] == [(1, ""), (2, "ü'\"")]


async def test_a_row_is_read_by_name_and_by_position(database: Database) -> None:
    [row] = await database.fetch("ping")
    assert (row["ok"], row[0], list(row)) == (1, 1, [1])


# Transactions


async def test_leaving_commits(database: Database) -> None:
    async with database.transaction() as transaction:
        await insert_session(transaction, 1)
        assert await session_ids(database) == []
    assert await session_ids(database) == [1]


async def test_an_error_rolls_back_and_goes_on_upwards(database: Database) -> None:
    with pytest.raises(LookupError):
        await insert_and_raise(database, LookupError())
    assert await session_ids(database) == []
    await assert_writable(database)


async def insert_and_raise(database: Database, error: BaseException) -> None:
    async with database.transaction() as transaction:
        await insert_session(transaction, 1)
        raise error


async def assert_writable(database: Database) -> None:
    """The next transaction finds nothing of an earlier one in its way."""
    async with database.transaction() as transaction:
        await insert_session(transaction, 9)
    assert 9 in await session_ids(database)


@pytest.mark.parametrize("steps", range(40))
async def test_a_cancelled_transaction_is_whole_and_the_next_works(database: Database, steps: int) -> None:
    async def write() -> None:
        async with database.transaction(durable=steps % 2 == 0) as transaction:
            await insert_session(transaction, 1)
            await transaction.fetch("lock_heads", '[["", "s1"]]')
            await transaction.execute_many("insert_message", [message_row(1, seq) for seq in range(1, 50)])

    task = asyncio.create_task(write())
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    await assert_writable(database)
    messages = len(await database.fetch("list_messages_after", 1, 0, 100))
    assert (await session_ids(database), messages) in (([9], 0), ([1, 9], 49))
    assert task.cancelled() or messages == 49


async def test_a_cancelled_transaction_that_holds_a_statement_is_rolled_back(database: Database) -> None:
    inside = asyncio.Event()

    async def write() -> None:
        async with database.transaction() as transaction:
            await insert_session(transaction, 1)
            inside.set()
            await transaction.fetch("allocate_session_ids", 200_000)

    task = asyncio.create_task(write())
    await inside.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await session_ids(database) == []
    await assert_writable(database)


async def test_transactions_take_turns(database: Database) -> None:
    inside: list[int] = []

    async def write(number: int) -> None:
        async with database.transaction() as transaction:
            inside.append(number)
            await insert_session(transaction, number)
            assert inside == [number]
            inside.remove(number)

    await asyncio.gather(*map(write, range(1, 9)))
    assert await session_ids(database) == list(range(1, 9))


async def test_a_read_does_not_wait_for_the_transaction(database: Database) -> None:
    async with database.transaction() as transaction:
        await insert_session(transaction, 1)
        reads = [database.fetch("count_sessions", "") for _ in range(20)]
        assert [rows[0]["total"] for rows in await asyncio.gather(*reads)] == [0] * 20


# Errors


async def test_a_key_that_is_taken_is_a_conflict(database: Database) -> None:
    await assert_writable(database)
    with pytest.raises(DatabaseConflict):
        await assert_writable(database)
    async with database.transaction() as transaction:
        await insert_session(transaction, 1)
    assert await session_ids(database) == [1, 9]


REFUSED = {
    "a missing session": message_row(404, 1),
    "a number of more than 64 bits": message_row(1, 2**63),
    "a lone surrogate": message_row(1, 1, '"\ud800"'),
    "nothing where something must be": [1, 1, None, *message_row(1, 1)[3:]],
    "a type that no column has": [1, 1, object(), *message_row(1, 1)[3:]],
    "a time before all time": [
        *message_row(1, 1)[:4],
        datetime.min.replace(tzinfo=timezone.max),
        *[None] * 6,
        7,
    ],
}


@pytest.mark.parametrize("row", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("others", [1, 19])
async def test_data_that_does_not_fit_is_refused(database: Database, row: list[object], others: int) -> None:
    with pytest.raises(DataRefused):
        await insert_message(database, row, others)
    assert await session_ids(database) == []
    await assert_writable(database)


async def insert_message(database: Database, row: list[object], others: int = 1) -> None:
    before = [message_row(1, seq) for seq in range(7, 7 + others)]
    async with database.transaction() as transaction:
        await insert_session(transaction, 1)
        await transaction.execute_many("insert_message", [*before, row])


async def test_an_error_carries_the_drivers_as_its_cause(database: Database) -> None:
    with pytest.raises(DatabaseError) as raised:
        await insert_message(database, message_row(404, 1))
    assert raised.value.__cause__ is not None


async def test_a_swallowed_error_fails_its_transaction_and_no_other(
    database: Database,
) -> None:
    async def write() -> None:
        async with database.transaction() as transaction:
            with suppress(DataRefused):
                await transaction.execute_many("insert_message", [message_row(404, 1)])

    with pytest.raises(DatabaseError):
        await write()
    await assert_writable(database)


# Bounds


async def test_a_reader_waits_for_a_connection_no_longer_than_the_pool_timeout(database_url: str) -> None:
    database = await open_database(database_url, pool_min=1, pool_max=1, pool_timeout=0.1, slow_query_ms=1e9)
    slow = asyncio.create_task(database.fetch("allocate_session_ids", 3_000_000))
    await until(lambda: database.pool_usage()["busy"] == 1)
    with pytest.raises(DatabaseUnavailable, match=r"no connection for reading came free in 0\.1 s"):
        await database.fetch("ping")
    slow.cancel()
    await asyncio.wait([slow])
    assert (await database.fetch("ping"))[0]["ok"] == 1
    assert database.pool_usage() == {"idle": 1, "busy": 0}
    await database.close()


async def test_a_statement_that_takes_too_long_is_given_up(database_url: str) -> None:
    database = await open_database(database_url, pool_min=1, pool_max=1, command_timeout=0.2)
    with pytest.raises(DatabaseUnavailable):
        await database.fetch("allocate_session_ids", 30_000_000)
    assert (await database.fetch("ping"))[0]["ok"] == 1
    await database.close()


async def test_more_readers_than_connections_are_all_served(database: Database) -> None:
    rows = await asyncio.gather(*(database.fetch("ping") for _ in range(200)))
    assert [row[0]["ok"] for row in rows] == [1] * 200
    usage = database.pool_usage()
    assert usage["busy"] == 0
    assert 1 <= usage["idle"] <= 10


# Closing


async def test_after_close_every_use_is_refused(database: Database) -> None:
    await database.close()
    await database.close()
    with pytest.raises(DatabaseUnavailable, match="clos"):
        await database.fetch("ping")
    with pytest.raises(DatabaseUnavailable, match="closed"):
        await assert_writable(database)


@pytest.mark.parametrize("steps", range(0, 48, 3))
async def test_a_start_that_is_cancelled_leaves_nothing_open(database_url: str, steps: int) -> None:
    threads = aiosqlite_threads()
    opening = asyncio.create_task(open_database(database_url))
    for _ in range(steps):
        await asyncio.sleep(0)
    opening.cancel()
    await asyncio.wait([opening])
    if not opening.cancelled():
        await opening.result().close()
    await until(lambda: aiosqlite_threads() == threads)
    await (await open_database(database_url)).close()


@pytest.mark.slow
async def test_close_does_not_wait_for_a_long_read(database: Database) -> None:
    slow = asyncio.create_task(database.fetch("allocate_session_ids", 30_000_000))
    await until(lambda: database.pool_usage()["busy"] == 1)
    async with asyncio.timeout(15):
        await database.close()
    with pytest.raises(DatabaseUnavailable):
        await slow


async def test_close_in_a_transaction_ends_it_rolled_back(database_url: str) -> None:
    database = await open_database(database_url)
    with pytest.raises(DatabaseUnavailable):
        await insert_and_close(database)
    database = await open_database(database_url)
    assert await session_ids(database) == []
    await database.close()


async def insert_and_close(database: Database) -> None:
    async with database.transaction() as transaction:
        await insert_session(transaction, 1)
        await database.close()
        await insert_session(transaction, 2)


async def test_what_is_committed_is_there_when_opened_again(database_url: str) -> None:
    for number in (1, 2):
        database = await open_database(database_url, migrate="check")
        async with database.transaction(durable=number == 1) as transaction:
            await insert_session(transaction, number)
        await database.close()
    database = await open_database(database_url)
    assert await session_ids(database) == [1, 2]
    await database.close()


# Logs


async def test_a_slow_statement_is_logged_by_name(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    database = await open_database(database_url, slow_query_ms=0)
    async with database.transaction() as transaction:
        await insert_session(transaction, 1)
    await database.fetch("list_heads", '[["", "s1"]]')
    await database.close()
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [text.rpartition(":")[0] for text in warnings] == [
        "slow statement insert_session",
        "slow statement list_heads",
    ]


async def test_a_quick_statement_is_not_logged(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    database = await open_database(database_url, slow_query_ms=10_000)
    await database.fetch("ping")
    await database.close()
    assert "slow" not in caplog.text


async def test_what_was_opened_is_logged_without_a_password(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "agent_runtime.db")
    database = await open_database(database_url.replace("postgres:@", "postgres:s3cret@"))
    await database.close()
    assert "opened " in caplog.text
    assert "s3cret" not in caplog.text


# URLs

IN_MEMORY = (
    ":memory:",
    "sqlite://",
    "sqlite:///",
    "sqlite+aiosqlite://",
    "sqlite:///:memory:",
    "sqlite:///file:x?mode=memory",
)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        *((url, "is in memory") for url in IN_MEMORY),
        ("sqlite://data/x.db", "names no file"),
        ("sqlite:///data/", "names no file"),
        ("sqlite:///x.db?mode=ro", "takes none"),
        ("data/x.db", "'data/x.db' is not a URL; for a file write 'sqlite:///data/x.db'"),
        ("/data/x.db", "write 'sqlite:////data/x.db'"),
        ("", "names no database that is known here"),
        ("me:s3cret@host/db", "names no database that is known here"),
        ("postgresql://me:memory:s3cret@host:x/db", "cannot be read"),
        ("mysql://root:s3cret@host/db", "'mysql://root:***@host/db' names no database"),
        ("postgresql://me:s3/cret@host/db", "cannot be read"),
        ("postgresql://host:70000/db", "cannot be read"),
        ("postgresql://host:s3cret/db", "cannot be read"),
    ],
)
async def test_a_wrong_url_is_an_error_that_shows_no_password(url: str, said: str) -> None:
    with pytest.raises(SettingsError) as raised:
        await open_database(url)
    assert str(raised.value).startswith("DB_URL: ")
    assert said in str(raised.value)
    assert "cret" not in str(raised.value).replace("host:s3cret", "")


@pytest.mark.parametrize("path", [Path("data/x.db"), Path("/data/x.db")])
async def test_a_path_is_an_error_that_shows_its_url(path: Path) -> None:
    with pytest.raises(SettingsError) as raised:
        async with open_store(path):  # type: ignore[arg-type]
            pass
    assert str(raised.value) == f"DB_URL: {path!r} is not a URL; for a file write 'sqlite:///{path}'"


async def test_an_empty_url_is_not_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError):
        async with open_store(""):
            pass
    assert not any(tmp_path.iterdir())


async def test_a_driver_suffix_is_ignored(database_url: str) -> None:
    scheme, _, rest = database_url.partition("://")
    driver = "aiosqlite" if scheme == "sqlite" else "asyncpg"
    database = await open_database(f"{scheme}+{driver}://{rest}")
    await database.close()


async def test_an_unreachable_server_is_one_line_without_the_password() -> None:
    with pytest.raises(StartupError) as raised:
        await open_database("postgres://me:s3cret@127.0.0.1:1/db")
    assert str(raised.value).startswith("DB_URL: cannot open postgresql://me:***@127.0.0.1:1/db: ")
    assert "\n" not in str(raised.value)


async def test_a_second_store_on_the_same_sqlite_file_is_refused(sqlite_url: str) -> None:
    database = await open_database(sqlite_url)
    with pytest.raises(
        DatabaseInUse, match=r"agent_runtime\.db is in use by process \d+ on host .+ since \d{4}-"
    ):
        await open_database(sqlite_url)
    await database.close()
    await (await open_database(sqlite_url)).close()
