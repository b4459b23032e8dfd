"""A database of each version of the older service arrives whole, on both databases."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from runtime.errors import SourceUnreadable, TargetNotEmpty
from runtime.store import imports
from runtime.store.store import open_store
from runtime.transfer import comparison
from tests.transfer.importing import fitting, import_into, read_all
from tests.transfer.old_databases import DUMP, FILES, expected, fingerprints, restore, unpack

pytestmark = [pytest.mark.usefixtures("uncounted"), pytest.mark.slow]


@pytest.fixture
def old_postgres_url(empty_postgres_url: str) -> str:
    restore(empty_postgres_url)
    return empty_postgres_url


def by_creation(wanted: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(wanted["sessions"], key=lambda session: str(session["created_at"]))


def as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1)


@pytest.mark.parametrize("name", FILES)
async def test_a_file_of_each_version_arrives_whole_and_stays_as_it_is(
    database_url: str, tmp_path: Path, name: str
) -> None:
    path, wanted = unpack(name, tmp_path), expected(name)
    before = fingerprints(path.parent)
    report = await import_into(database_url, str(path))
    assert fingerprints(path.parent) == before
    assert vars(report.read) == vars(report.stored) == wanted["counts"]
    assert report.lost == wanted["skipped"]
    assert (report.changed, report.differing.things) == ({}, 0)
    found = fitting(await read_all(database_url), by_creation(wanted))
    assert as_json(found) == as_json(by_creation(wanted))


async def test_a_postgres_arrives_whole(database_url: str, old_postgres_url: str) -> None:
    wanted = expected(DUMP)
    report = await import_into(database_url, old_postgres_url)
    assert vars(report.read) == vars(report.stored) == wanted["counts"]
    assert report.lost == wanted["skipped"]
    assert report.differing.things == 0
    found = fitting(await read_all(database_url), by_creation(wanted))
    assert as_json(found) == as_json(by_creation(wanted))


async def test_an_import_for_an_owner_is_that_owners(database_url: str, tmp_path: Path) -> None:
    await import_into(database_url, str(unpack("d1fce7d.db", tmp_path)), owner="ann")
    assert await read_all(database_url) == []
    assert len(await read_all(database_url, "ann")) == 13


async def test_a_second_import_of_the_same_source_stores_nothing(database_url: str, tmp_path: Path) -> None:
    path = str(unpack("5b01f1b.db", tmp_path))
    first = await import_into(database_url, path)
    again = await import_into(database_url, path)
    assert (first.created, again.created, again.continued) == (12, 0, 0)
    assert vars(again.stored) == vars(first.stored)
    assert again.differing.things == 0


async def test_a_target_with_other_sessions_is_refused_or_merged_into(
    database_url: str, tmp_path: Path
) -> None:
    source = str(unpack("d1fce7d.db", tmp_path))
    wanted = by_creation(expected("d1fce7d.db"))
    same = wanted[0]["session_id"]
    async with open_store(database_url) as store:
        await store.create_session(same, messages=[{"role": "user", "content": "ours"}])
    with pytest.raises(TargetNotEmpty, match=r"1 sessions .* --merge"):
        await import_into(database_url, source)
    assert len(await read_all(database_url)) == 1
    report = await import_into(database_url, source, merge=True)
    assert (report.created, report.changed, report.differing.things) == (12, {"kept": 1}, 0)
    found = await read_all(database_url)
    [ours] = [session for session in found if session["session_id"] == same]
    assert [message["content"] for message in ours["messages"]] == ["ours"]
    rest = [session for session in found if session["session_id"] != same]
    assert as_json(fitting(rest, wanted[1:])) == as_json(wanted[1:])


async def test_a_session_that_went_on_since_is_kept_and_named(database_url: str, tmp_path: Path) -> None:
    source = str(unpack("d1fce7d.db", tmp_path))
    await import_into(database_url, source)
    id = expected("d1fce7d.db")["sessions"][0]["session_id"]
    async with open_store(database_url) as store:
        await store.append_messages(id, [{"role": "user", "content": "and on"}])
    report = await import_into(database_url, source)
    assert (report.created, report.changed, report.differing.things) == (0, {"changed_since": 1}, 0)
    async with open_store(database_url) as store:
        [last] = (await store.list_messages(id, last=1)).messages
        assert last["content"] == "and on"


async def test_a_difference_is_found(sqlite_url: str, tmp_path: Path) -> None:
    """The comparison reads what is stored: a text that changed in the target is seen."""
    source = str(unpack("d1fce7d.db", tmp_path))
    await import_into(sqlite_url, source)
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as connection:
        connection.execute("UPDATE messages SET content = '\"x\"' WHERE session_db_id = 1 AND seq = 2")
        connection.execute("UPDATE agent_switches SET reason = '\"x\"' WHERE from_agent = ''")
        connection.execute("DELETE FROM pending_approvals WHERE call_id = 'call_old'")
        connection.commit()
    assert (await import_into(sqlite_url, source)).differing.things == 3


async def test_a_session_that_the_database_refuses_is_named_and_fails_alone(
    sqlite_url: str, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as connection:
        connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON messages WHEN new.content = '\"tick 1\"'"
            " BEGIN SELECT raise(ABORT, 'not this one'); END"
        )
    source = str(unpack("d1fce7d.db", tmp_path))
    report = await import_into(sqlite_url, source)
    assert (report.created, report.stored.sessions, report.differing.things) == (12, 12, 1)
    assert "f6a14c6c-572e-5305-a4bf-80c72b9cc5ba': could not be stored" in "\n".join(report.lines())
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as connection:
        connection.execute("DROP TRIGGER refuse")
    report = await import_into(sqlite_url, source)
    assert (report.created, report.stored.sessions, report.differing.things) == (1, 13, 0)


async def test_large_sessions_are_compared_page_by_page(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "BYTES", 3000)
    monkeypatch.setattr(imports, "BYTES", 1000)
    monkeypatch.setattr(imports, "ROWS", 4)
    report = await import_into(database_url, str(unpack("5b01f1b.db", tmp_path)))
    assert (report.stored.messages, report.differing.things) == (136, 0)


# Sources that are not idle files


@pytest.fixture
def killed_file(tmp_path: Path) -> Path:
    """A file in WAL mode as a killed process leaves it: its last messages are in the log alone."""
    live = unpack("5b01f1b.db", tmp_path)
    (tmp_path / "killed").mkdir()
    with closing(sqlite3.connect(live)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("UPDATE messages SET content = 'from the log' WHERE role = 'user'")
        connection.commit()
        for side in ("", "-wal", "-shm"):
            shutil.copyfile(f"{live}{side}", tmp_path / "killed" / f"old.db{side}")
    return tmp_path / "killed" / "old.db"


@pytest.mark.parametrize("with_index", [True, False])
async def test_what_is_in_the_log_alone_arrives_and_no_byte_changes(
    sqlite_url: str, killed_file: Path, with_index: bool
) -> None:
    if not with_index:
        Path(f"{killed_file}-shm").unlink()
    before = fingerprints(killed_file.parent)
    report = await import_into(sqlite_url, str(killed_file))
    assert fingerprints(killed_file.parent) == before
    assert report.stored.messages == 136
    said = {m["content"] for s in await read_all(sqlite_url) for m in s["messages"] if m["role"] == "user"}
    assert said == {"from the log"}


async def test_what_a_hot_journal_takes_back_does_not_arrive(sqlite_url: str, tmp_path: Path) -> None:
    live = unpack("d1fce7d.db", tmp_path)
    (tmp_path / "killed").mkdir()
    path = tmp_path / "killed" / "old.db"
    program = (
        "import os, sqlite3, sys\nc = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('PRAGMA cache_size = 1')\nc.execute('BEGIN')\n"
        "c.execute(\"UPDATE messages SET content = 'never' || randomblob(3000)\")\nos._exit(1)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(live)], check=False)
    for side in ("", "-journal"):
        shutil.copyfile(f"{live}{side}", f"{path}{side}")
    before = fingerprints(path.parent)
    assert before["old.db-journal"]
    await import_into(sqlite_url, str(path))
    assert fingerprints(path.parent) == before
    wanted = by_creation(expected("d1fce7d.db"))
    assert as_json(fitting(await read_all(sqlite_url), wanted)) == as_json(wanted)


WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
connection.execute(f"PRAGMA journal_mode = {sys.argv[2]}")
(session,) = connection.execute("SELECT id FROM sessions WHERE deleted_at IS NULL LIMIT 1").fetchone()
n = 0
while True:
    n += 1
    connection.execute("BEGIN IMMEDIATE")
    for half in "ab":
        connection.execute(
            "INSERT INTO messages (id, session_db_id, role, content, timestamp)"
            " VALUES (?, ?, 'user', ?, '2027-01-01 00:00:00.000000')",
            (f"{n}{half}", session, f"pair {n}{half}"))
    connection.execute("COMMIT")
    if n == 20:
        print("writing", flush=True)
"""


@pytest.fixture(params=["WAL", "DELETE"])
def busy_file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file that another program adds messages to all the time, two in each transaction."""
    path = unpack("d1fce7d.db", tmp_path)
    command = [sys.executable, "-c", WRITER, str(path), request.param]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        yield path
        assert process.poll() is None, "the writer was disturbed"
        process.kill()


async def test_a_file_that_is_written_to_is_read_as_it_was_at_one_moment(
    sqlite_url: str, busy_file: Path
) -> None:
    report = await import_into(sqlite_url, str(busy_file))
    assert report.differing.things == 0
    said = [m["content"] for s in await read_all(sqlite_url) for m in s["messages"]]
    pairs = [text for text in said if text and text.startswith("pair ")]
    assert len(pairs) >= 40
    assert pairs == [f"pair {n}{half}" for n in range(1, len(pairs) // 2 + 1) for half in "ab"]


async def test_a_postgres_that_is_written_to_is_read_as_it_was_at_one_moment(
    sqlite_url: str, old_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that is made while the import runs, after its first look, is in none of its two passes."""
    from runtime.transfer.old_database import OldDatabase

    count = OldDatabase.count_sessions

    def count_and_write(self: OldDatabase) -> int:
        found = count(self)
        with psycopg.connect(old_postgres_url) as connection:
            connection.execute(
                "INSERT INTO sessions VALUES ('new', 'x', NULL, now(), now(), true, NULL)"
                " ON CONFLICT DO NOTHING"
            )
        return found

    monkeypatch.setattr(OldDatabase, "count_sessions", count_and_write)
    report = await import_into(sqlite_url, old_postgres_url)
    assert (report.stored.sessions, report.differing.things) == (13, 0)
    assert "new" not in {session["session_id"] for session in await read_all(sqlite_url)}


# What is no source


async def test_what_is_no_old_database_is_refused_and_named(sqlite_url: str, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE recipes (id integer PRIMARY KEY)")
    (tmp_path / "text.db").write_text("not a database" * 100)
    for source, said in (
        (str(other), "is no database of the older service"),
        (str(tmp_path / "text.db"), "cannot be read: file is not a database"),
        (str(tmp_path / "missing.db"), "cannot be read: .*No such file"),
        (sqlite_url, "is a database of agent-runtime itself"),
        ("postgresql://nobody:secret@127.0.0.1:1/none", "cannot be read: "),
        ("mysql://localhost/x", "SOURCE: .* names no database"),
    ):
        with pytest.raises(SourceUnreadable, match=said) as raised:
            await import_into(sqlite_url, source)
        assert "secret" not in str(raised.value)
        assert "\n" not in str(raised.value)
