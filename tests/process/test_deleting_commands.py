"""`agent-runtime cleanup` and `erase` as an operator meets them: on a terminal, and without one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import closing

import pytest

from runtime.store.store import open_store
from tests.support.marked_owner_rows import MARK, OWNER, connect, files_with, fill, tables_with
from tests.support.running_turns import user
from tests.support.server_process import (
    PATIENCE,
    PROGRAM,
    ServerProcess,
    environment,
    run_command,
    start_server,
)

WOULD_CLEAN = "soft-delete 1 sessions that were idle for 24 hours, erase 0 that were deleted 30 days ago"
WOULD_ERASE = f"erase for good 3 sessions with 6 messages, and 2 tokens, of owner {OWNER!r}"


def prepare(url: str) -> None:
    async def make() -> None:
        async with open_store(url) as store:
            await fill(store)
            await store.create_session("s", messages=[user("x")])
            await store.tokens.create("kept")

    asyncio.run(make())


def run(url: str, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    ended = run_command(*arguments, env={"DB_URL": url})
    assert ended.returncode == status, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    return ended


def sessions(url: str) -> list[tuple[str, bool]]:
    """The owner of each session that there is, and whether it is deleted."""
    with closing(connect(url)) as connection:
        rows = connection.execute("SELECT owner, deleted_at IS NOT NULL FROM sessions ORDER BY owner, id")
        return [(owner, bool(is_deleted)) for owner, is_deleted in rows]


ALL = [("", False), (OWNER, False), (OWNER, True), (OWNER, False)]


class Terminal:
    """A command with a terminal before it."""

    def __init__(self, url: str, arguments: Sequence[str]) -> None:
        self._mine, theirs = pty.openpty()
        self.shown = ""
        self._process = subprocess.Popen(
            [*PROGRAM, *arguments],
            env={**environment({"DB_URL": url}), "TERM": "dumb"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)

    def wait_for(self, text: str) -> None:
        while text not in self.shown:
            self.shown += self._read()

    def _read(self) -> str:
        """What is shown next. Raises OSError at the end."""
        ready, _, _ = select.select([self._mine], [], [], PATIENCE)
        assert ready, self.shown
        return os.read(self._mine, 4096).decode()

    def type(self, text: str) -> None:
        os.write(self._mine, text.encode())

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self) -> int:
        """Wait for the end; the exit status."""
        with contextlib.suppress(OSError):  # the terminal is closed at the other end
            while more := self._read():
                self.shown += more
        os.close(self._mine)
        return self._process.wait(PATIENCE)


# Without a terminal


def test_a_cleanup_without_arguments_is_refused_with_what_it_would_do(database_url: str) -> None:
    prepare(database_url)
    refused = run(database_url, "cleanup", status=1)
    assert refused.stdout == ""
    assert refused.stderr.splitlines() == [
        f"agent-runtime: this would {WOULD_CLEAN}; nothing was done, repeat it with --yes"
    ]
    assert sessions(database_url) == ALL
    cleaned = run(database_url, "cleanup", "--yes").stdout
    assert cleaned == "soft-deleted 1 idle sessions, erased 0 deleted ones\n"


def test_a_dry_run_counts_and_does_nothing(database_url: str) -> None:
    prepare(database_url)
    assert run(database_url, "cleanup", "--dry-run").stdout == f"would {WOULD_CLEAN}\n"
    ages = ("--max-age-hours", "0", "--hard-delete-after-days", "0")
    would = "soft-delete 3 sessions that were idle for 0 hours, erase 1 that were deleted 0 days ago"
    for arguments in (("--dry-run",), ("--dry-run", "--yes")):
        assert run(database_url, "cleanup", *ages, *arguments).stdout == f"would {would}\n"
        assert sessions(database_url) == ALL
    # Who names an age is not asked.
    cleaned = run(database_url, "cleanup", *ages).stdout
    assert cleaned == "soft-deleted 3 idle sessions, erased 1 deleted ones\n"


def test_an_erasing_is_refused_with_what_it_would_erase(database_url: str) -> None:
    prepare(database_url)
    refused = run(database_url, "erase", "--owner", OWNER, status=1)
    assert refused.stdout == ""
    [line] = refused.stderr.splitlines()
    assert line == f"agent-runtime: this would {WOULD_ERASE}; nothing was done, repeat it with --yes"
    assert sessions(database_url) == ALL


def test_an_owner_is_erased_and_again(database_url: str) -> None:
    prepare(database_url)
    erased = run(database_url, "erase", "--owner", OWNER, "--yes").stdout
    assert erased == f"erased 3 sessions with 6 messages, 2 tokens, of owner {OWNER!r}\n"
    assert tables_with(database_url) == {}
    assert sessions(database_url) == [("", False)]
    again = run(database_url, "erase", "--owner", OWNER, "--yes", "--vacuum").stdout
    assert again == f"erased 0 sessions with 0 messages, 0 tokens, of owner {OWNER!r}\n"
    assert "kept" in run(database_url, "token", "list").stdout


def test_with_vacuum_nothing_is_left_in_any_file(database_url: str) -> None:
    prepare(database_url)
    assert files_with(database_url)
    run(database_url, "erase", "--owner", OWNER, "--yes", "--vacuum")
    assert files_with(database_url) == []
    assert run(database_url, "check").returncode == 0


def test_what_is_nobodys_is_named(database_url: str) -> None:
    prepare(database_url)
    refused = run(database_url, "erase", "--owner", "", "--yes", status=1)
    assert "must be a name" in refused.stderr
    assert run_command("erase", "--yes", env={"DB_URL": database_url}).returncode == 2
    both = run_command("erase", "--owner", "a", "--nobody", "--yes", env={"DB_URL": database_url})
    assert both.returncode == 2
    assert sessions(database_url) == ALL
    erased = run(database_url, "erase", "--nobody", "--yes").stdout
    assert erased == "erased 1 sessions with 1 messages, 1 tokens, of nobody\n"
    assert sessions(database_url) == ALL[1:]


@pytest.mark.parametrize("name", ["x" * 256, "a\nb"])
def test_a_wrong_name_is_one_line(sqlite_url: str, name: str) -> None:
    refused = run(sqlite_url, "erase", "--owner", name, "--yes", status=1)
    assert refused.stderr.startswith("agent-runtime: ")
    assert refused.stdout == ""


def test_beside_a_server_on_sqlite_it_names_the_server(sqlite_url: str) -> None:
    with start_server({"DB_URL": sqlite_url}) as server:
        refused = run(sqlite_url, "erase", "--owner", "a", "--yes", status=2)
        assert f"process {server.pid}" in refused.stderr


def test_beside_a_server_on_postgres_it_is_done(postgres_url: str) -> None:
    with start_server({"DB_URL": postgres_url}) as server:
        assert ask(server, "PUT", {"messages": [user(MARK)]}) == 201
        run(postgres_url, "erase", "--owner", OWNER, "--yes", "--vacuum")
        assert tables_with(postgres_url) == {}
        assert ask(server, "GET") == 404


def ask(server: ServerProcess, method: str, body: object = None) -> int:
    """The status of a request about a session of the owner."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "X-Owner": OWNER}
    request = urllib.request.Request(f"{server.url}/sessions/s", data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


# A server


def test_a_server_keeps_the_periods_of_its_settings(database_url: str) -> None:
    with start_server({"DB_URL": database_url, "RETAIN_IDLE_DAYS": "30"}) as server:
        server.wait_for("an idle session is kept for 30 days, a deleted one for ever")
        assert server.stop() == 0
        assert "Traceback" not in server.log
    with start_server({"DB_URL": database_url, "RETAIN_IDLE_DAYS": ""}) as server:
        assert server.stop() == 0
        assert "agent_runtime.retention" not in server.log


# On a terminal

COMMANDS = (("cleanup",), ("erase", "--owner", OWNER))


def type_no(terminal: Terminal) -> None:
    terminal.type("n\n")


def type_nothing(terminal: Terminal) -> None:
    terminal.type("\n")


def type_end(terminal: Terminal) -> None:
    terminal.type("\x04")


def type_something(terminal: Terminal) -> None:
    terminal.type("maybe\n")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("answer", [type_no, type_nothing, type_end, type_something])
def test_an_answer_that_is_not_yes_does_nothing(
    sqlite_url: str, command: Sequence[str], answer: Callable[[Terminal], None]
) -> None:
    prepare(sqlite_url)
    terminal = Terminal(sqlite_url, command)
    terminal.wait_for("Go on? [y/N]")
    answer(terminal)
    assert terminal.end() == 1
    assert "nothing was done" in terminal.shown
    assert sessions(sqlite_url) == ALL


def test_yes_does_it(database_url: str) -> None:
    prepare(database_url)
    for command, question, done in (
        (COMMANDS[0], WOULD_CLEAN, "soft-deleted 1 idle sessions"),
        (COMMANDS[1], WOULD_ERASE, "erased 3 sessions with 6 messages"),
    ):
        terminal = Terminal(database_url, command)
        terminal.wait_for("Go on? [y/N]")
        assert f"This will {question}." in terminal.shown
        terminal.type("y\n")
        assert terminal.end() == 0, terminal.shown
        assert done in terminal.shown
    assert sessions(database_url) == [("", False)]


def test_ctrl_c_ends_the_question_and_nothing_is_done(sqlite_url: str) -> None:
    prepare(sqlite_url)
    terminal = Terminal(sqlite_url, COMMANDS[1])
    terminal.wait_for("Go on? [y/N]")
    # No store is open while a person thinks.
    assert run(sqlite_url, "stats").returncode == 0
    terminal.send(signal.SIGINT)
    assert terminal.end() == 130
    assert "Traceback" not in terminal.shown
    assert sessions(sqlite_url) == ALL
