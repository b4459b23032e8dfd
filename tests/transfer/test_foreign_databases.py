"""A database of another program is seen before anything touches it."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from runtime.db.connect import open_database
from runtime.errors import ForeignDatabase
from tests.support.server_process import run_command
from tests.transfer.old_databases import FILES, fingerprints, restore, unpack

pytestmark = pytest.mark.usefixtures("uncounted")

COMMANDS = (("serve",), ("migrate",), ("migrate", "--plan"), ("check",), ("stats",), ("cleanup",))


def refused(url: str, *command: str) -> str:
    """The one line that a command ends with, at status 2."""
    ended = run_command(*command, env={"DB_URL": url, "LOG_LEVEL": "ERROR"})
    assert (ended.returncode, ended.stdout) == (2, "")
    [line] = ended.stderr.splitlines()
    assert line.startswith("agent-runtime: ")
    assert f"agent-runtime import {url}" in line
    return line


def relations(url: str) -> list[tuple[str, int]]:
    """Every table and index of a Postgres, with its size."""
    with psycopg.connect(url) as connection:
        return connection.execute(
            "SELECT relname::text, pg_relation_size(oid) FROM pg_class"
            " WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
        ).fetchall()


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_each_command_refuses_an_old_file_and_changes_nothing(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    path = unpack("5b01f1b.db", tmp_path)
    before = fingerprints(path.parent)
    line = refused(f"sqlite:///{path}", *command)
    assert "sessions" in line
    assert fingerprints(path.parent) == before


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_each_command_refuses_an_old_postgres_and_makes_no_table(
    empty_postgres_url: str, command: tuple[str, ...]
) -> None:
    restore(empty_postgres_url)
    before = relations(empty_postgres_url)
    ended = run_command(*command, env={"DB_URL": empty_postgres_url, "LOG_LEVEL": "ERROR"})
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "agent-runtime import" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert relations(empty_postgres_url) == before


@pytest.mark.parametrize("name", FILES)
async def test_a_file_of_each_version_is_refused_and_left_as_it_is(tmp_path: Path, name: str) -> None:
    path = unpack(name, tmp_path)
    before = fingerprints(path.parent)
    with pytest.raises(ForeignDatabase, match="agent-runtime import sqlite:////"):
        await open_database(f"sqlite:///{path}")
    assert fingerprints(path.parent) == before


async def test_an_old_file_whose_tables_are_in_its_log_alone_is_refused(tmp_path: Path) -> None:
    """As the older service leaves a new file when it is killed."""
    live = tmp_path / "live.db"
    (tmp_path / "old").mkdir()
    path = tmp_path / "old" / "killed.db"
    with closing(sqlite3.connect(live)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("CREATE TABLE sessions (id text PRIMARY KEY, title text)")
        for side in ("", "-wal"):
            shutil.copyfile(f"{live}{side}", f"{path}{side}")
    before = fingerprints(path.parent)
    assert before.keys() == {"killed.db", "killed.db-wal"}
    with pytest.raises(ForeignDatabase):
        await open_database(f"sqlite:///{path}")
    assert fingerprints(path.parent) == before


async def test_a_file_with_tables_of_other_names_is_used(tmp_path: Path) -> None:
    path = tmp_path / "shared.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE recipes (id integer PRIMARY KEY)")
    await (await open_database(f"sqlite:///{path}")).close()


async def test_a_postgres_with_tables_of_other_names_is_used(empty_postgres_url: str) -> None:
    with psycopg.connect(empty_postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE recipes (id integer PRIMARY KEY)")
    await (await open_database(empty_postgres_url)).close()


async def test_tables_of_ours_whose_mark_was_lost_are_ours(empty_sqlite_url: str) -> None:
    """A kill between the first migration and its mark leaves the tables alone."""
    await (await open_database(empty_sqlite_url)).close()
    with closing(sqlite3.connect(empty_sqlite_url.removeprefix("sqlite:///"))) as connection:
        connection.execute("DELETE FROM _yoyo_migration")
        connection.commit()
    await (await open_database(empty_sqlite_url)).close()
