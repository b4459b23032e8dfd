"""`agent-runtime import` as an operator meets it: its report, its refusals, and what a kill leaves."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.store.store import open_store
from tests.support.server_process import PROGRAM, SOURCES, environment, run_command
from tests.transfer.importing import fitting, read_all
from tests.transfer.old_databases import expected, fingerprints, unpack
from tests.transfer.test_old_databases import as_json, by_creation

pytestmark = [pytest.mark.usefixtures("uncounted"), pytest.mark.slow]

NAME = "5b01f1b.db"


def run_import(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command("import", *arguments, env={"DB_URL": url})


def kill_import(url: str, transaction: int, source: Path) -> int:
    """The exit status of an import that dies in a transaction."""
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "tests.transfer.dying_import",
        str(transaction),
        str(source),
    ]
    ended = subprocess.run(
        command, cwd=SOURCES, env=environment({"DB_URL": url}), capture_output=True, text=True, check=False
    )
    return ended.returncode


@pytest.mark.parametrize("transaction", [1, 2, 4, 5, 7, 8, 11, 12, 13, 16])
async def test_killed_and_repeated_it_comes_to_the_same(
    database_url: str, tmp_path: Path, transaction: int
) -> None:
    path = unpack(NAME, tmp_path)
    before = fingerprints(path.parent)
    assert kill_import(database_url, transaction, path) == -signal.SIGKILL
    # Once more, from where that one came to.
    assert kill_import(database_url, 2, path) == -signal.SIGKILL
    assert fingerprints(path.parent) == before

    ended = run_import(database_url, str(path))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "every imported session is as in the source" in ended.stdout
    assert fingerprints(path.parent) == before
    wanted = by_creation(expected(NAME))
    assert as_json(fitting(await read_all(database_url), wanted)) == as_json(wanted)
    assert run_command("check", env={"DB_URL": database_url}).returncode == 0


async def test_a_session_cut_by_a_kill_is_completed_by_the_next_import(
    sqlite_url: str, tmp_path: Path
) -> None:
    path = unpack(NAME, tmp_path)
    assert kill_import(sqlite_url, 5, path) == -signal.SIGKILL
    async with open_store(sqlite_url) as store:
        sessions = (await store.list_sessions(include_deleted=True)).sessions
    wanted = {session["session_id"]: session["message_count"] for session in expected(NAME)["sessions"]}
    assert [each for each in sessions if each.message_count < wanted[each.session_id]]
    assert "gone on with: 1;" in run_import(sqlite_url, str(path)).stdout


def test_the_report_says_what_was_imported_and_what_was_not(database_url: str, tmp_path: Path) -> None:
    path = unpack(NAME, tmp_path)
    ended = run_import(database_url, f"sqlite:///{path}")
    assert (ended.returncode, ended.stderr) == (0, "")
    words = [line.split() for line in ended.stdout.splitlines()]
    for row in (
        "sessions 12 12",
        "deleted sessions 2 2",
        "messages 136 136",
        "switches 8 8",
        "approvals 5 5",
        "subtasks: 2",
        "approvals_without_session: 1",
        "call_orphan of 26647e63-0e3d-5385-b831-9514293f4ea0",
    ):
        assert row.split() in words, ended.stdout


def test_a_dry_run_counts_and_makes_no_target(tmp_path: Path) -> None:
    path = unpack(NAME, tmp_path)
    target = tmp_path / "new" / "new.db"
    ended = run_import(f"sqlite:///{target}", "--dry-run", str(path))
    assert ended.returncode == 0, ended.stderr
    assert ["messages", "136"] in [line.split() for line in ended.stdout.splitlines()]
    assert "plan-approval-1" in ended.stdout
    assert not target.parent.exists()


@pytest.mark.parametrize("arguments", [("--timezone", "Nowhere/Else", "x"), ("--owner", "\x01", "x"), ()])
def test_wrong_arguments_are_refused(arguments: tuple[str, ...]) -> None:
    ended = run_command("import", *arguments, env={})
    assert ended.returncode == 2
    assert "error:" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("source", ["missing.db", "postgresql://nobody@127.0.0.1:1/x", "mysql://x/y"])
def test_a_source_that_cannot_be_read_is_one_line(sqlite_url: str, source: str) -> None:
    ended = run_import(sqlite_url, source)
    assert (ended.returncode, ended.stdout) == (2, "")
    [line] = ended.stderr.splitlines()
    assert line.startswith("agent-runtime: SOURCE: ")


def test_an_import_into_its_own_source_is_refused(tmp_path: Path) -> None:
    path = unpack(NAME, tmp_path)
    before = fingerprints(path.parent)
    ended = run_import(f"sqlite:///{path}", str(path))
    assert ended.returncode == 2
    assert fingerprints(path.parent) == before


def test_a_target_with_other_sessions_is_refused(sqlite_url: str, tmp_path: Path) -> None:
    path = unpack(NAME, tmp_path)
    (tmp_path / "another").mkdir()
    other = unpack("d1fce7d.db", tmp_path / "another")
    assert run_import(sqlite_url, str(other)).returncode == 0
    ended = run_import(sqlite_url, str(path))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "--merge" in ended.stderr
    merged = run_import(sqlite_url, "--merge", str(path))
    assert merged.returncode == 0
    assert "kept as they were: 11" in merged.stdout


def test_the_progress_is_shown_on_a_terminal_alone(sqlite_url: str, tmp_path: Path) -> None:
    path = unpack(NAME, tmp_path)
    mine, theirs = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, "import", str(path)],
        env=environment({"DB_URL": sqlite_url}),
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(mine, 4096):
            shown += part
    except OSError:
        pass  # The other end is closed.
    os.close(mine)
    assert process.wait() == 0
    assert b"of 12 sessions" in shown
