"""The command line as an operator meets it: real processes, their output and their exit status."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from runtime import __version__
from tests.support.server_process import ServerProcess, run_command, start_server

MIGRATIONS = sorted(
    path.stem
    for path in (Path(__file__).parents[2] / "migrations" / "sqlite").glob("*.sql")
    if not path.stem.endswith(".rollback")
)


def ask(url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.load(reply)


def refusal(*arguments: str, **env: str) -> str:
    """The one line with which a command refuses to start."""
    ended = run_command(*arguments, env={"LOG_LEVEL": "ERROR", **env})
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == ""
    [line] = ended.stderr.splitlines()
    assert line.startswith("agent-runtime: ")
    return line


def test_help_tells_a_newcomer_what_there_is() -> None:
    text = run_command("--help", env={}).stdout
    for word in ("serve", "migrate", "cleanup", "stats", "check", "examples:", "settings.md", "exit status"):
        assert word in text


@pytest.mark.parametrize("command", ["serve", "migrate", "cleanup", "stats", "check"])
def test_each_command_explains_itself(command: str) -> None:
    ended = run_command(command, "--help", env={})
    assert ended.returncode == 0
    assert f"agent-runtime {command}" in ended.stdout


def test_version() -> None:
    assert run_command("--version", env={}).stdout == f"agent-runtime {__version__}\n"


def test_a_command_is_required() -> None:
    ended = run_command(env={})
    assert ended.returncode == 2
    assert "COMMAND" in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("migrate", "--rollback", "0"),
        ("migrate", "--plan", "--check"),
        ("cleanup", "--max-age-hours", "-1"),
        ("cleanup", "--hard-delete-after-days", "nan"),
        ("sing",),
    ],
)
def test_wrong_arguments_are_refused(arguments: tuple[str, ...]) -> None:
    ended = run_command(*arguments, env={})
    assert ended.returncode == 2
    assert "error:" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_migrations_are_planned_checked_applied_and_taken_back(empty_database_url: str) -> None:
    env = {"DB_URL": empty_database_url}
    plan = run_command("migrate", "--plan", env=env)
    assert plan.returncode == 0
    assert "CREATE TABLE" in plan.stdout
    assert run_command("migrate", "--check", env=env).returncode == 1

    applied = run_command("migrate", env=env)
    assert applied.stdout.splitlines() == [f"applied: {name}" for name in MIGRATIONS], applied.stderr
    check = run_command("migrate", "--check", env=env)
    assert (check.returncode, check.stdout) == (0, "nothing is pending\n")
    assert run_command("migrate", "--plan", env=env).stdout == "-- nothing is pending\n"
    assert run_command("migrate", env=env).stdout == "nothing was pending\n"

    back = run_command("migrate", "--rollback", "1", env=env)
    assert back.stdout == f"rolled back: {MIGRATIONS[-1]}\n", back.stderr
    check = run_command("migrate", "--check", env=env)
    assert (check.returncode, check.stdout) == (1, f"pending: {MIGRATIONS[-1]}\n")


def test_a_plan_makes_nothing(empty_sqlite_url: str) -> None:
    assert run_command("migrate", "--plan", env={"DB_URL": empty_sqlite_url}).returncode == 0
    assert not Path(empty_sqlite_url.removeprefix("sqlite:///")).parent.exists()


def test_a_server_serves_stops_and_remembers(database_url: str) -> None:
    env = {"DB_URL": database_url}
    with start_server(env) as server:
        ask(f"{server.url}/sessions", {"session_id": "s", "messages": [{"role": "user", "content": "hi"}]})
        assert server.stop() == 0
        assert "SIGTERM received" in server.log
        assert "Traceback" not in server.log
    with start_server(env) as server:
        [message] = ask(f"{server.url}/sessions/s/messages")["messages"]
        assert message["content"] == "hi"
        assert server.stop() == 0

    stats = run_command("stats", env=env)
    assert stats.returncode == 0, stats.stderr
    counts = dict(line.split() for line in stats.stdout.splitlines())
    assert (counts["sessions"], counts["messages"]) == ("1", "1")
    check = run_command("check", env=env)
    assert (check.returncode, check.stdout) == (0, "migrations, storage and session heads are sound\n")


def test_buffered_writes_are_stored_on_the_way_out(database_url: str) -> None:
    env = {"DB_URL": database_url, "DURABILITY": "buffered", "FLUSH_INTERVAL": "3600"}
    with start_server(env) as server:
        ask(f"{server.url}/sessions", {"session_id": "s"})
        reply = ask(f"{server.url}/sessions/s/messages", {"role": "user", "content": "hi"})
        assert reply["accepted"] == 1
        assert server.stop() == 0
    with start_server({"DB_URL": database_url}) as server:
        assert ask(f"{server.url}/sessions/s")["message_count"] == 1


def test_an_open_stream_does_not_delay_the_end(sqlite_url: str) -> None:
    with start_server({"DB_URL": sqlite_url, "SHUTDOWN_TIMEOUT": "3600"}) as server:
        ask(f"{server.url}/sessions", {"session_id": "s"})
        with urllib.request.urlopen(f"{server.url}/sessions/s/events", timeout=10):
            assert server.stop() == 0


def test_ctrl_c_is_quiet(sqlite_url: str) -> None:
    with start_server({"DB_URL": sqlite_url}) as server:
        server.send(signal.SIGINT)
        assert server.wait() == 0
        assert "Traceback" not in server.log


def test_logs_are_json_where_asked(sqlite_url: str) -> None:
    env = {"DB_URL": sqlite_url, "LOG_FORMAT": "json", "ACCESS_LOG": "off"}
    with start_server(env) as server:
        ask(f"{server.url}/health")
        server.stop()
    lines = [json.loads(line) for line in server.log.splitlines()]
    assert any(line["message"].startswith("listening on http://127.0.0.1:") for line in lines)
    assert not any("/health" in line["message"] for line in lines)


def test_cleanup_tells_what_it_did(database_url: str) -> None:
    env = {"DB_URL": database_url}
    with start_server(env) as server:
        for name in ("a", "b"):
            ask(f"{server.url}/sessions", {"session_id": name})
        server.stop()
    ended = run_command("cleanup", "--max-age-hours", "0", env=env)
    assert ended.stdout == "soft-deleted 2 idle sessions, erased 0 deleted ones\n", ended.stderr
    ended = run_command("cleanup", "--hard-delete-after-days", "0", env=env)
    assert ended.stdout == "soft-deleted 0 idle sessions, erased 2 deleted ones\n", ended.stderr


def test_check_tells_what_is_wrong(sqlite_url: str) -> None:
    env = {"DB_URL": sqlite_url}
    with start_server(env) as server:
        ask(f"{server.url}/sessions", {"session_id": "s", "messages": [{"role": "user", "content": "hi"}]})
        server.stop()
    execute(sqlite_url, "DELETE FROM messages")
    ended = run_command("check", env=env)
    assert ended.returncode == 1
    assert "session 's'" in ended.stdout
    assert "1 messages up to number 1, stored are 0" in ended.stdout

    run_command("migrate", "--rollback", "1", env=env)
    ended = run_command("check", env=env)
    assert ended.returncode == 1
    assert MIGRATIONS[-1] in ended.stdout


def execute(url: str, statement: str) -> None:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    with connection:
        connection.execute(statement)
    connection.close()


def test_a_misspelt_setting_is_refused() -> None:
    line = refusal("serve", DBURL="sqlite:///a.db")
    assert line.endswith("AGENT_RUNTIME__DBURL is not a setting; the nearest is AGENT_RUNTIME__DB_URL")


def test_a_wrong_setting_is_refused() -> None:
    assert "AGENT_RUNTIME__PORT is 'eighty'; it must be a port number" in refusal("serve", PORT="eighty")


@pytest.mark.parametrize("url", ["mysql://me:s3cret@here/db", "sqlite:///", "me:s3cret@here/db"])
def test_a_database_url_that_nothing_is_known_of_is_refused(url: str) -> None:
    line = refusal("serve", DB_URL=url)
    assert "DB_URL" in line
    assert "sqlite:///" in line
    assert "s3cret" not in line


@pytest.mark.parametrize("command", ["serve", "migrate", "cleanup", "stats", "check"])
def test_an_unreachable_postgres_is_refused(command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    line = refusal(command, DB_URL=f"postgresql://me:s3cret@127.0.0.1:{port}/db")
    assert str(port) in line or "127.0.0.1" in line
    assert "s3cret" not in line


@pytest.mark.parametrize("command", ["serve", "migrate", "stats"])
def test_a_folder_that_cannot_be_written_is_refused(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = refusal(command, DB_URL=f"sqlite:///{tmp_path}/file/a.db")
    assert "DB_URL" in line
    assert str(tmp_path / "file") in line


@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_a_database_newer_than_the_program_is_refused(command: str, sqlite_url: str) -> None:
    env = {"DB_URL": sqlite_url}
    execute(
        sqlite_url,
        "INSERT INTO _yoyo_migration (migration_hash, migration_id, applied_at_utc)"
        " VALUES ('f', '9999-from-the-future', '2099-01-01')",
    )
    assert "9999-from-the-future" in refusal(command, **env)


def test_pending_migrations_are_refused_where_they_are_only_checked(empty_sqlite_url: str) -> None:
    line = refusal("serve", DB_URL=empty_sqlite_url, MIGRATE="check")
    assert MIGRATIONS[0] in line
    assert "agent-runtime migrate" in line


def test_a_port_in_use_is_refused(sqlite_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = refusal("serve", DB_URL=sqlite_url, PORT=port)
    assert f"AGENT_RUNTIME__PORT {port}" in line
    assert "in use" in line


def test_a_host_that_is_not_ours_is_refused(sqlite_url: str) -> None:
    line = refusal("serve", DB_URL=sqlite_url, HOST="host.invalid")
    assert "AGENT_RUNTIME__HOST is 'host.invalid', which is not known" in line


def test_w13_a_second_process_on_a_sqlite_file_names_the_first(sqlite_url: str) -> None:
    env = {"DB_URL": sqlite_url}
    with start_server(env) as server:
        assert f"process {server.pid}" in refusal("serve", **env)
        assert f"process {server.pid}" in refusal("stats", **env)
        assert ask(f"{server.url}/health/ready")["status"] == "ok"


def test_w11_the_request_in_hand_is_finished(sqlite_url: str) -> None:
    env = {"DB_URL": sqlite_url, "SHUTDOWN_TIMEOUT": "3600"}
    with start_server(env) as server, request_in_hand(server) as client:
        server.send(signal.SIGTERM)
        server.wait_for("shutting down")
        client.sendall(BODY)
        assert client.recv(1024).startswith(b"HTTP/1.1 201")
        assert server.wait() == 0
        assert "stored 1 writes" in server.log


def test_w11_what_cannot_be_stored_in_time_is_counted_and_said(sqlite_url: str) -> None:
    env = {"DB_URL": sqlite_url, "DURABILITY": "buffered", "FLUSH_INTERVAL": "3600", "SHUTDOWN_TIMEOUT": "1"}
    with start_server(env) as server, sqlite3.connect(sqlite_url.removeprefix("sqlite:///")) as other:
        ask(f"{server.url}/sessions", {"session_id": "s"})
        ask(f"{server.url}/sessions/s/messages", {"role": "user", "content": "hi"})
        other.execute("BEGIN IMMEDIATE")
        assert server.stop() == 1
        assert "1 writes could not be stored" in server.log
    other.close()


def test_a_second_signal_ends_a_server_that_waits(sqlite_url: str) -> None:
    env = {"DB_URL": sqlite_url, "SHUTDOWN_TIMEOUT": "3600"}
    with start_server(env) as server, request_in_hand(server):
        server.send(signal.SIGTERM)
        server.wait_for("shutting down")
        server.send(signal.SIGTERM)
        assert server.wait() == 1
        assert "SIGTERM again: exiting at once" in server.log


BODY = b'{"session_id": "late"}'


def request_in_hand(server: ServerProcess) -> socket.socket:
    """A request whose body has not arrived: its handler waits for it."""
    host, port = server.url.removeprefix("http://").split(":")
    client = socket.create_connection((host, int(port)), timeout=10)
    client.sendall(
        b"POST /sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(BODY)
    )
    # The handler runs: it has asked for the body.
    assert client.recv(1024).startswith(b"HTTP/1.1 100")
    return client
