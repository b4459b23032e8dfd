"""W13: a SQLite file has one owner, whatever path leads to it; and its files are for the owner alone."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.disks import mounted_file
from tests.process.http_client import http_client
from tests.support.server_process import PROGRAM, ServerProcess, run_command, start_server

# For another user, who can look into every folder here.
HOLD = """
import fcntl, os, sys
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
try:
    fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_SH | fcntl.LOCK_NB)
except PermissionError:
    print("refused")
"""


def path_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def refusal(path: Path, *command: str) -> str:
    """The line with which a command that would open this path refuses to start."""
    ended = run_command(*command, env={"DB_URL": f"sqlite:///{path}", "LOG_LEVEL": "ERROR"})
    assert ended.returncode == 2, ended.stderr
    return ended.stderr.splitlines()[-1]


def hard_link(path: Path, other: Path) -> None:
    os.link(path, other)


def linked_folder(path: Path, other: Path) -> None:
    """What `cp -al` makes: a link of the lock file, the WAL and the index as well."""
    subprocess.run(["cp", "-al", path.parent, other.parent], check=True)


def symlink(path: Path, other: Path) -> None:
    other.symlink_to(path)


@pytest.mark.parametrize("make", [hard_link, linked_folder, symlink])
async def test_w13_a_link_made_while_serving_opens_the_file_for_nobody(
    sqlite_url: str, tmp_path: Path, make: Callable[[Path, Path], None]
) -> None:
    """A second server started by a hard link, and of 300 writes that were acknowledged 150 were lost."""
    home, other = tmp_path / "home", tmp_path / "other" / "agent_runtime.db"
    home.mkdir()
    path = path_of(sqlite_url).rename(home / other.name)
    if make is not linked_folder:
        other.parent.mkdir()
    with start_server({"DB_URL": f"sqlite:///{path}"}) as server:
        async with http_client(server.url) as client:
            await client.post("/sessions", {"session_id": "s"})
            make(path, other)
            commands = [("serve",), ("stats",)]
            if make is not symlink:
                # By the owner's own path, as a symbolic link is, these look beside the owner.
                commands += [("token", "list"), ("migrate", "--check")]
            for command in commands:
                line = refusal(other, *command)
                assert f"process {server.pid}" in line, line
            await client.post("/sessions/s/messages", {"role": "user", "content": "x"})
        assert server.stop() == 0


async def test_w13_nobody_else_opens_a_file_that_is_mounted_elsewhere(
    sqlite_url: str, tmp_path: Path
) -> None:
    with start_server({"DB_URL": sqlite_url}) as server:
        with mounted_file(path_of(sqlite_url), tmp_path / "elsewhere" / "x.db") as other:
            assert f"in use by process {server.pid}, under another path" in refusal(other, "serve")
        assert server.stop() == 0


@pytest.mark.parametrize("make", [hard_link, linked_folder])
async def test_w13_what_a_killed_server_left_is_opened_by_its_own_path_alone(
    sqlite_url: str, tmp_path: Path, make: Callable[[Path, Path], None]
) -> None:
    """The WAL beside the path holds what was acknowledged: by another name nothing of it would be there."""
    home, other = tmp_path / "home", tmp_path / "other" / "agent_runtime.db"
    home.mkdir()
    path = path_of(sqlite_url).rename(home / other.name)
    if make is hard_link:
        other.parent.mkdir()
    with start_server({"DB_URL": f"sqlite:///{path}"}) as server:
        async with http_client(server.url) as client:
            await client.post("/sessions", {"session_id": "s"})
        server.kill()
    make(path, other)
    line = refusal(other, "serve")
    assert "is one of 2 names (hard links) of a file" in line
    assert str(path) in line or make is hard_link
    with start_server({"DB_URL": f"sqlite:///{path}"}) as server:
        async with http_client(server.url) as client:
            assert (await client.get("/sessions/s"))["session_id"] == "s"
        assert server.stop() == 0


# Modes


def mode(path: Path | str) -> int:
    return os.stat(path).st_mode & 0o777


async def test_what_the_server_makes_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Without an umask all of it was readable for everybody, or writable."""
    path = tmp_path / "new" / "folder" / "agent_runtime.db"
    env = {"DB_URL": f"sqlite:///{path}"}
    with ServerProcess(env, command=["sh", "-c", 'umask 0; exec "$@"', "sh", *PROGRAM, "serve"]) as server:
        server.wait_until_listening()
        async with http_client(server.url) as client:
            await client.post("/sessions", {})
        modes = {each.name: mode(each) for each in path.parent.iterdir()}
        assert modes == {f"{path.name}{suffix}": 0o600 for suffix in ("", "-wal", "-shm", ".lock")}
        assert mode(path.parent) == mode(path.parent.parent) == 0o700
        assert server.stop() == 0


async def test_files_that_are_there_keep_their_modes(sqlite_url: str) -> None:
    path = path_of(sqlite_url)
    path.chmod(0o640)
    folder = mode(path.parent)
    with start_server({"DB_URL": sqlite_url}) as server:
        async with http_client(server.url) as client:
            await client.post("/sessions", {})
        assert [mode(f"{path}{suffix}") for suffix in ("", "-wal", "-shm")] == [0o640] * 3
        assert mode(path.parent) == folder
        assert server.stop() == 0


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can look into: those that pytest makes are closed."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize(("before", "after"), [(None, 0o600), (0o644, 0o600), (0o664, 0o660), (0o660, 0o660)])
def test_nobody_who_can_only_read_the_lock_file_can_hold_it(
    open_folder: Path, before: int | None, after: int
) -> None:
    """Another user who opened it for reading kept the server from starting. (This test needs root.)"""
    path = open_folder / "agent_runtime.db"
    lock = Path(f"{path}.lock")
    if before is not None:
        lock.touch()
        lock.chmod(before)
    assert run_command("migrate", env={"DB_URL": f"sqlite:///{path}"}).returncode == 0
    assert mode(lock) == after
    held = subprocess.run([sys.executable, "-c", HOLD, lock], capture_output=True, text=True, check=True)
    assert held.stdout == "refused\n"


def test_a_lock_that_somebody_holds_is_not_taken(sqlite_url: str) -> None:
    """The lock on the file itself, taken by a program that is none of ours."""
    with path_of(sqlite_url).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert f"process {os.getpid()}" in refusal(path_of(sqlite_url), "serve")
