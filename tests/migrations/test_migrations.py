"""Migrations, in both dialects: up, down, interrupted, all at once."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
import sqlparse

from runtime.db import migrate
from runtime.db.connect import open_database
from runtime.db.migrate import (
    apply_migrations,
    list_migrations,
    pending_migrations,
    rollback_migrations,
)
from runtime.db.queries import load_queries
from runtime.errors import DatabaseInUse, MigrationError, StartupError
from tests.migrations.catalogue import query, read_catalogue, sqlite_path
from tests.support.postgres_server import PostgresServer

IDS = [migration.id for migration in list_migrations("sqlite")]
CHECKOUT = Path(__file__).parents[2]
PATIENCE = 60.0
STATEMENTS = {
    dialect: [
        statement
        for migration in list_migrations(dialect)
        for statement in sqlparse.split(sqlparse.format(migration.sql, strip_comments=True))
    ]
    for dialect in ("sqlite", "postgres")
}


def start_opening(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tests.migrations.opening", *arguments],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def opened_catalogue(url: str) -> object:
    """The catalogue that a start leaves behind; that start and the next one have to succeed."""
    await (await open_database(url)).close()
    await (await open_database(url, migrate="check")).close()
    return read_catalogue(url)


# The two dialects


def test_both_dialects_have_the_same_migrations_each_with_its_way_back() -> None:
    assert [migration.id for migration in list_migrations("postgres")] == IDS
    for dialect in ("sqlite", "postgres"):
        for migration in list_migrations(dialect):
            assert migration.sql.startswith("-- What: ")
            assert all(f"\n-- {word}: " in migration.sql for word in ("Why", "Locks", "Interrupted"))
            assert "DROP" in migration.rollback_sql


def test_both_dialects_end_in_the_same_catalogue(sqlite_url: str, postgres_url: str) -> None:
    catalogue = read_catalogue(sqlite_url)
    assert catalogue == read_catalogue(postgres_url)
    assert {table for table, _, _ in catalogue["columns"]} == {
        "sessions",
        "messages",
        "agent_contexts",
        "agent_switches",
        "pending_approvals",
        "idempotency_keys",
        "writers",
        "turns",
        "turn_events",
        "tokens",
        "bare_sessions",
        "imported_sessions",
        "search_entries",
        "search_queue",
        "search_backfill",
        "session_labels",
        "unlabelled_sessions",
        "forked_sessions",
        "unfinished_forks",
    }


# Up and down


async def test_up_down_and_up_again_ends_in_the_same_catalogue(empty_database_url: str) -> None:
    url = empty_database_url
    assert await apply_migrations(url) == IDS
    catalogue = read_catalogue(url)
    assert await rollback_migrations(url, 1) == IDS[:-2:-1]
    assert [migration.id for migration in await pending_migrations(url)] == IDS[-1:]
    assert await apply_migrations(url) == IDS[-1:]
    assert read_catalogue(url) == catalogue
    assert await rollback_migrations(url, len(IDS) + 5) == IDS[::-1]
    assert read_catalogue(url) == {"columns": set(), "indexes": set()}
    assert await apply_migrations(url) == IDS
    assert read_catalogue(url) == catalogue


async def test_nothing_is_applied_twice(database_url: str) -> None:
    assert await pending_migrations(database_url) == []
    assert await apply_migrations(database_url) == []


async def test_start_up_says_what_it_migrated(
    empty_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "agent_runtime.db")
    await (await open_database(empty_database_url)).close()
    said = [record.getMessage() for record in caplog.records if record.name == "agent_runtime.db"]
    assert said[:-1] == [f"applied migration {migration_id}" for migration_id in IDS]
    assert said[-1].startswith("opened ")


def test_a_current_database_is_opened_without_yoyo(database_url: str) -> None:
    program = (
        "import asyncio, sys\nfrom runtime.db.connect import open_database\n"
        "async def main():\n    await (await open_database(sys.argv[1])).close()\n"
        "asyncio.run(main())\nassert 'yoyo' not in sys.modules, 'yoyo was imported'\n"
    )
    subprocess.run([sys.executable, "-c", program, database_url], cwd=CHECKOUT, check=True)


# Looking only


async def test_pending_migrations_writes_nothing(empty_database_url: str) -> None:
    assert [migration.id for migration in await pending_migrations(empty_database_url)] == IDS
    if empty_database_url.startswith("sqlite"):
        assert not sqlite_path(empty_database_url).parent.exists()
    else:
        assert query(empty_database_url, "SELECT relname FROM pg_class WHERE relname ~ 'yoyo'") == []


async def test_pending_migrations_leaves_a_sqlite_file_as_it_is(sqlite_url: str) -> None:
    before = sqlite_path(sqlite_url).read_bytes()
    await pending_migrations(sqlite_url)
    assert sqlite_path(sqlite_url).read_bytes() == before


async def test_pending_migrations_can_be_asked_while_the_database_is_in_use(database_url: str) -> None:
    database = await open_database(database_url)
    assert await pending_migrations(database_url) == []
    await database.close()


async def test_check_refuses_an_old_schema_and_writes_nothing(empty_database_url: str) -> None:
    said = f"^migrations {', '.join(IDS)} are pending; run `agent-runtime migrate` first$"
    with pytest.raises(MigrationError, match=said):
        await open_database(empty_database_url, migrate="check")
    assert len(await pending_migrations(empty_database_url)) == len(IDS)


# Refusals


async def test_a_database_newer_than_the_program_is_refused(database_url: str) -> None:
    query(
        database_url,
        "INSERT INTO _yoyo_migration VALUES ('hash', '9999-from-the-future', '2099-01-01 00:00:00')",
    )
    for refused in (open_database, pending_migrations, apply_migrations):
        with pytest.raises(MigrationError, match=r"newer than this program.*9999-from-the-future"):
            await refused(database_url)
    with pytest.raises(MigrationError, match="newer"):
        await rollback_migrations(database_url, 1)


async def test_a_migration_that_fails_is_named_with_its_cause(empty_database_url: str) -> None:
    await pending_migrations(empty_database_url)
    if empty_database_url.startswith("sqlite"):
        sqlite_path(empty_database_url).parent.mkdir()
    query(empty_database_url, "CREATE TABLE sessions (owner integer)")
    with pytest.raises(
        MigrationError, match=rf"^migration {IDS[0]} failed: .*(deleted_at|last_activity)"
    ) as raised:
        await open_database(empty_database_url)
    assert "\n" not in str(raised.value)


async def test_migrating_a_sqlite_file_that_is_in_use_is_refused(sqlite_url: str) -> None:
    database = await open_database(sqlite_url)
    with pytest.raises(DatabaseInUse):
        await apply_migrations(sqlite_url)
    with pytest.raises(DatabaseInUse):
        await rollback_migrations(sqlite_url, 1)
    await database.close()


async def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StartupError, match=r"^DB_URL: cannot write to the folder .*file/data: "):
        await open_database(f"sqlite:///{tmp_path}/file/data/x.db")


async def test_a_file_that_is_no_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("not a database, but long enough to look like one" * 100)
    with pytest.raises(StartupError, match=r"^DB_URL: \S+x.db is damaged, .*: it is not a SQLite"):
        await open_database(f"sqlite:///{tmp_path}/x.db")


@pytest.mark.parametrize("name", ["a b", "100%", "100%25", "what?", "c#", "[a]*", "ü", "it's"])
async def test_any_path_is_opened(tmp_path: Path, name: str) -> None:
    written = name.replace("%", "%25").replace("?", "%3F").replace("#", "%23")
    database = await open_database(f"sqlite:///{tmp_path}/{written}/{written}.db")
    await database.fetch("ping")
    await database.close()
    assert (tmp_path / name / f"{name}.db").stat().st_size > 0
    assert os.listdir(tmp_path) == [name]


async def test_a_database_of_any_name_is_migrated(postgres_server: PostgresServer) -> None:
    name = postgres_server.create(name='it\'s 100% "mine"?')
    assert await apply_migrations(postgres_server.url(name)) == IDS
    postgres_server.drop(name)


# Interrupted


@pytest.mark.parametrize("done", range(1, len(STATEMENTS["sqlite"]) + 1))
async def test_interrupted_after_any_statement_the_next_start_converges(
    empty_database_url: str, sqlite_url: str, done: int
) -> None:
    dialect = "sqlite" if empty_database_url.startswith("sqlite") else "postgres"
    if dialect == "sqlite":
        sqlite_path(empty_database_url).parent.mkdir()
    for statement in STATEMENTS[dialect][:done]:
        query(empty_database_url, statement)
    assert await opened_catalogue(empty_database_url) == read_catalogue(sqlite_url)


async def test_a_crash_between_a_migration_and_its_mark_converges(database_url: str, sqlite_url: str) -> None:
    query(database_url, f"DELETE FROM _yoyo_migration WHERE migration_id = '{IDS[-1]}'")
    assert await opened_catalogue(database_url) == read_catalogue(sqlite_url)


async def test_a_lock_row_of_a_crash_does_not_stop_the_next_start(database_url: str) -> None:
    query(database_url, "DELETE FROM _yoyo_migration")
    query(database_url, "INSERT INTO yoyo_lock VALUES (1, '2020-01-01 00:00:00', 1)")
    started = time.monotonic()
    assert await apply_migrations(database_url) == IDS
    assert time.monotonic() - started < 8  # yoyo would wait for ten seconds, and give up.


@pytest.mark.parametrize("statement", range(2, 60, 5))
async def test_killed_before_any_statement_of_yoyo_the_next_start_converges(
    empty_database_url: str, sqlite_url: str, statement: int
) -> None:
    process = start_opening(empty_database_url, str(statement))
    process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL
    assert await opened_catalogue(empty_database_url) == read_catalogue(sqlite_url)


# All at once


def test_ten_processes_on_an_empty_postgres_migrate_once(empty_postgres_url: str, sqlite_url: str) -> None:
    processes = [start_opening(empty_postgres_url) for _ in range(10)]
    ends = [(process.communicate(timeout=PATIENCE), process.returncode) for process in processes]
    assert ends == [(("", ""), 0)] * 10
    assert read_catalogue(empty_postgres_url) == read_catalogue(sqlite_url)
    applied = "SELECT migration_id FROM _yoyo_log WHERE operation = 'apply' ORDER BY created_at_utc"
    assert [row[0] for row in query(empty_postgres_url, applied)] == IDS


async def test_a_lock_that_another_process_holds_is_waited_for_in_bounds(
    empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "LOCK_SECONDS", 1)
    with psycopg.connect(empty_postgres_url, autocommit=True) as other:
        other.execute(load_queries("postgres")["lock_migrations"].sql)
        with pytest.raises(MigrationError, match=r"another process has been migrating .* for 1 s"):
            await apply_migrations(empty_postgres_url)
    assert await apply_migrations(empty_postgres_url) == IDS


async def test_a_migration_and_a_reader_do_not_wait_for_each_other(postgres_url: str) -> None:
    """The reader has one table and wants the next one; the migration has that and wants the first."""
    ids = IDS[IDS.index("0006-small-keys-swap") :]
    await rollback_migrations(postgres_url, len(ids))
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'messages'::regclass"
    with psycopg.connect(postgres_url) as reader:
        reader.execute("LOCK TABLE messages IN ACCESS SHARE MODE")
        applying = asyncio.create_task(apply_migrations(postgres_url))
        async with asyncio.timeout(PATIENCE):
            while query(postgres_url, waiting) == [(0,)]:  # noqa: ASYNC110
                await asyncio.sleep(0)
        await asyncio.to_thread(reader.execute, "LOCK TABLE sessions IN ACCESS SHARE MODE")
    assert await applying == ids
