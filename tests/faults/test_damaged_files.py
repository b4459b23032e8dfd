"""A SQLite file that is damaged, or whose WAL has lost its end, is refused and left as it is."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from runtime.db.sqlite_integrity import _read_index, check_file
from runtime.db.sqlite_wal import WAL_HEADER
from runtime.errors import FileDamaged
from tests.faults import damages
from tests.faults.conftest import Report
from tests.faults.damages import SUFFIXES, cut, digests, garbage, overwrite, size, wal
from tests.faults.dying_writer import dying_writer
from tests.process.http_client import HttpClient, Refused, http_client
from tests.support.database_locks import execute
from tests.support.server_process import run_command, start_server

NAME = "agent_runtime.db"
MESSAGES = 60
TEXT = "x" * 2000

Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Path:
    """What a server left that was killed after it had acknowledged MESSAGES writes."""
    path = tmp_path_factory.mktemp("killed") / NAME
    shutil.copyfile(sqlite_template, path)
    with start_server({"DB_URL": f"sqlite:///{path}"}) as server:
        asyncio.run(write_messages(server.url, MESSAGES))
    assert size(path, "-wal") > WAL_HEADER
    return path


@pytest.fixture
def path(tmp_path: Path, killed: Path) -> Path:
    """A copy of it."""
    for suffix in (*SUFFIXES, ".lock"):
        shutil.copyfile(f"{killed}{suffix}", tmp_path / f"{NAME}{suffix}")
    return tmp_path / NAME


async def write_messages(url: str, count: int) -> None:
    async with http_client(url) as client:
        await client.post("/sessions", {"session_id": "s"})
        for number in range(count):
            await client.post("/sessions/s/messages", {"role": "user", "content": f"{number} {TEXT}"})


# What happened to the file while no server ran, and what is said of it.

LOST = r"committed writes are lost: of its WAL \d+ bytes are there, and \d+ were written; .* -shm$"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (damages.cut_to_a_frame, LOST),
        (damages.cut_in_a_frame, LOST),
        (damages.cut_to_its_header, LOST),
        (damages.cut_to_nothing, LOST),
        (damages.delete_the_wal, LOST),
        (damages.zero_the_end, LOST),
        (damages.destroy_the_header, "it is not a SQLite database; restore a backup"),
        (damages.destroy_the_header_beside_a_wal, "it is not a SQLite database; restore a backup"),
        (damages.destroy_the_page_size, "file is not a database; restore a backup"),
        (damages.destroy_a_page_of_messages, "; restore a backup .*agent-runtime check"),
        (damages.destroy_pages, "; restore a backup .*agent-runtime check"),
        (damages.destroy_pages_beside_a_wal, "; restore a backup .*agent-runtime check"),
        (damages.cut_the_file, r"it is cut short: \d+ of \d+ bytes are there; restore a backup"),
        (damages.empty_the_file_beside_a_wal, "it is empty or missing, and its WAL is not; restore a backup"),
        (damages.put_a_text_there, "it is not a SQLite database; restore a backup"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_damaged_file_is_refused_and_left_as_it_is(path: Path, damage: Damage, told: str) -> None:
    damage(path)
    before = digests(path)
    refused = run_command("serve", env={"DB_URL": f"sqlite:///{path}"})
    assert (refused.returncode, refused.stdout) == (2, "")
    line = refused.stderr.splitlines()[-1]
    assert "Traceback" not in refused.stderr
    assert line.startswith(f"agent-runtime: DB_URL: {path} is damaged, and was left as it is: ")
    assert re.search(told, line), line
    assert digests(path) == before


@pytest.mark.parametrize("damage", [damages.cut_to_a_frame, damages.destroy_a_page_of_messages])
def test_whoever_only_looks_leaves_it_as_it_is(path: Path, damage: Damage) -> None:
    """To read the WAL of a killed process is to forget what it lacks."""
    damage(path)
    before = digests(path)
    env = {"DB_URL": f"sqlite:///{path}"}
    looked = run_command("migrate", "--check", env=env)
    assert looked.returncode == 2
    assert looked.stderr.startswith(f"agent-runtime: DB_URL: {path} is damaged")
    check = run_command("check", env=env)
    assert (check.returncode, check.stderr) == (1, "")
    assert check.stdout.startswith("storage: ")
    assert digests(path) == before


async def test_deleting_the_index_accepts_the_loss(path: Path) -> None:
    damages.cut_to_a_frame(path)
    Path(f"{path}-shm").unlink()
    with start_server({"DB_URL": f"sqlite:///{path}"}) as server:
        async with http_client(server.url) as client:
            messages = await client.read_forward("s", 100)
        assert server.stop() == 0
    assert [message["seq"] for message in messages] == list(range(1, MESSAGES))


def test_after_a_power_cut_what_is_left_of_the_wal_is_taken(path: Path) -> None:
    """A buffered write may be lost then (W5), and what the index says of it is not to be trusted."""
    damages.cut_to_a_frame(path)
    lock = Path(f"{path}.lock")
    owner, _, *rest = lock.read_text().splitlines()
    lock.write_text("\n".join([owner, "00000000-another-boot", *rest]))
    assert run_command("stats", env={"DB_URL": f"sqlite:///{path}"}).returncode == 0


def test_an_empty_file_is_a_new_database(tmp_path: Path) -> None:
    (tmp_path / NAME).touch()
    assert run_command("migrate", env={"DB_URL": f"sqlite:///{tmp_path / NAME}"}).returncode == 0


# While a server runs


async def test_damage_that_shows_while_it_runs_ends_writing_and_is_told(sqlite_url: str) -> None:
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    with start_server({"DB_URL": sqlite_url, "CACHE_BYTES": "0"}) as server:
        await write_messages(server.url, MESSAGES)
        await execute(sqlite_url, "PRAGMA wal_checkpoint(TRUNCATE)", "")
        # All but the schema: what is in the memory of a connection hides the damage from it alone.
        overwrite(path, 4096, garbage(size(path) - 4096))
        async with http_client(server.url) as client:
            codes = {await code_of(client, number) for number in range(20)}
            assert codes == {(500, "database_damaged")}
            ready = await client._http.get(server.url + "/health/ready")
            assert ready.status == 503
            assert "damaged" in (await ready.json())["checks"]["database"]
            await client.get("/health")
        assert server.log.count("it takes no more writes") == 1
        assert "Traceback" not in server.log
        assert len(server.log.splitlines()) < 200
        server.stop()


async def code_of(client: HttpClient, number: int) -> tuple[int, str]:
    async with asyncio.timeout(5):
        try:
            if number % 2:
                await client.get("/sessions/s/messages", after=number, limit=50)
            else:
                await client.post("/sessions/s/messages", {"role": "user", "content": TEXT})
        except Refused as refused:
            return refused.status, refused.code
    return 200, ""


# Killed at any moment: nothing but a loss may look like one.


@pytest.mark.rounds(20)
def test_w5_killed_at_any_moment_only_a_wal_that_was_cut_is_refused(
    sqlite_url: str, tmp_path: Path, rounds: int, seed: int, report: Report
) -> None:
    path, chance = Path(sqlite_url.removeprefix("sqlite:///")), Random(seed)
    commits = cuts = with_wal = 0
    with dying_writer(path) as writer:
        for _ in range(rounds):
            commits += writer.write_and_die(chance.uniform(0.01, 0.25))
            check_file(path, index_is_true=True)
            if Path(f"{path}-shm").exists():
                with_wal += 1
                cuts += check_that_cuts_are_noticed(path, tmp_path / "cut", chance)
    report(kills=rounds, with_wal=with_wal, cuts_noticed=cuts, commits=commits)


def check_that_cuts_are_noticed(path: Path, folder: Path, chance: Random) -> int:
    """Cut a copy of the WAL somewhere in what is not in the file yet; how many cuts there were."""
    index = _read_index(path)
    if index is None or index.frames <= index.backfilled:
        return 0
    folder.mkdir(exist_ok=True)
    for suffix in ("-wal", "-shm"):
        shutil.copyfile(f"{path}{suffix}", folder / f"{NAME}{suffix}")
    for length in (chance.randrange(index.wal_bytes), index.wal_bytes - 1):
        cut(wal(folder / NAME), length)
        with pytest.raises(FileDamaged, match="committed writes are lost"):
            check_file(folder / NAME, index_is_true=True)
    return 2
