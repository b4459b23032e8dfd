"""W5, W14: the power is cut, or the server killed, at any moment around an I/O error of the disk.

A real server works under a mixed load, some writes buffered and some waited for, while a chosen call on its
files fails, once or for a while. Of what a disk may then hold many images are made and compared with what was
answered until that moment: what was acknowledged is there once, what was refused is not, and of a session
nothing is missing before something that is there.
"""

from __future__ import annotations

import asyncio
import errno
import math
import sqlite3
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import NamedTuple

import aiohttp
import pytest

from tests.faults.asking import Asker
from tests.faults.checker import check
from tests.faults.conftest import Report
from tests.faults.journal import Journal, Write
from tests.faults.recorded_disk import (
    KINDS,
    Image,
    Kind,
    Record,
    compile_shim,
    lay_out,
    read_log,
    rebuild,
    recorded,
)
from tests.faults.restarted_server import mortal_server
from tests.faults.roles import Course, note_answer, write
from tests.faults.stored import find_damage, read_database
from tests.support.server_process import SERVE

SETTINGS = {"FLUSH_INTERVAL": "0.005", "WRITE_TIMEOUT": "0.4"}
SESSIONS, WRITERS, WRITES, REFUSALS = 5, 8, 800, 48
BUFFERED, LONGEST_PAUSE = 0.9, 0.02
# Another program reads the file: for how long at a time, and how long it stays away.
LONGEST_READ, LONGEST_AWAY = 0.1, 0.3
# So many messages of so many bytes outgrow the first page of the WAL-index.
LARGE, LARGE_ONES = 1_000_000, 18
PATIENCE = 60
# Images of a round. Most of them soon after a failure: so many records later on the average.
IMAGES, SOON, MOST = 40, 60, 0.7


class Trouble(NamedTuple):
    """A fault for each life of the server, with FIRST in the place of a number from a range.

    `pinned`: another program reads all the time, and large messages make the WAL long.
    """

    name: str
    faults: tuple[str, ...]
    first: tuple[int, int] = (5, 40)
    pinned: bool = False


TROUBLES = (
    Trouble("nothing fails", ("",)),
    Trouble("a sync of the WAL fails", (f"sync wal {errno.EIO} FIRST 1",)),
    Trouble("syncs of the WAL fail", (f"sync wal {errno.EIO} FIRST 5",)),
    Trouble("a sync of the file fails", (f"sync db {errno.EIO} FIRST 1",), (2, 2)),
    Trouble("syncs of the file fail", (f"sync db {errno.EIO} FIRST 3",), (2, 2)),
    Trouble("a write to the WAL fails", (f"write wal {errno.EIO} FIRST 1",), (100, 1000)),
    Trouble("the disk is full for the WAL", (f"write wal {errno.ENOSPC} FIRST 5",), (100, 1000)),
    Trouble("the disk is full for the file", (f"write db {errno.ENOSPC} FIRST 2",), (2, 12)),
    # It grows by eight writes at a time: at the start, and then in a COMMIT, after its sync.
    Trouble("the disk is full for the WAL-index", (f"write shm {errno.ENOSPC} FIRST 4",), (9, 9), True),
    Trouble("killed while syncs of the WAL fail", (f"sync wal {errno.EIO} FIRST 100000", "")),
)


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory, where there is any: each image is written there."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder)


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.name.replace(" ", "-"))
async def test_w14_an_answer_is_never_a_guess_about_the_disk(
    trouble: Trouble, sqlite_template: Path, shim: Path, folder: Path, rounds: int, seed: int, report: Report
) -> None:
    """Before it held, 92 of 1,600 images were bad (rounds 4, seed 20261121).

    18 of 160 where syncs of the WAL failed, 15 where those of the file did, 6 where the WAL-index could not
    grow, and 53 where the server was killed while syncs failed. In another run 37 of 80 images were malformed
    where one sync of the file had failed: SQLite's automatic checkpoint hides its errors, and counts what it
    copied in part as being on the disk.
    """
    before = sqlite_template.read_bytes()
    bad: list[str] = []
    figures: Counter[str] = Counter(images=0, bad=0)
    for number in range(rounds):
        chance = Random(f"{seed} {trouble.name} {number}")
        journal, records = await record_a_load(trouble, before, shim, folder, chance)
        figures["acknowledged"] += journal.count("acknowledged")
        figures["accepted"] += journal.count("accepted")
        figures["failed_calls"] += sum(record.failed for record in records)
        figures.update({name.replace(" ", "_"): count for name, count in journal.refusals.items()})
        cuts = draw_cuts(records, chance)
        for image in rebuild(before, records, cuts, chance, chance.choice((0.0, 0.0, 0.5))):
            found = check_image(image, journal, folder)
            if not figures["images"] % IMAGES:
                found += check_with_the_program(image, folder)
            figures["images"] += 1
            figures["bad"] += bool(found)
            bad += [f"round {number}, {image.name}: {finding}" for finding in found]
    report(**figures)
    assert not trouble.faults[0] or figures["failed_calls"], "nothing failed: this shows nothing"
    assert not bad, f"{figures['bad']} of {figures['images']} images are bad:\n" + "\n".join(bad[:20])


# A load, and what came of it


async def record_a_load(
    trouble: Trouble, before: bytes, shim: Path, folder: Path, chance: Random
) -> tuple[Journal, list[Record]]:
    """Lives of a server under load, each killed in the end; what was answered, and what was written."""
    journal = Journal()
    with tempfile.TemporaryDirectory(dir=folder) as name:
        path, log = Path(name, "agent_runtime.db"), Path(name, "disk.log")
        path.write_bytes(before)
        settings = {"DB_URL": f"sqlite:///{path}", **SETTINGS}
        for life, fault in enumerate(trouble.faults):
            fault = fault.replace("FIRST", str(chance.randint(*trouble.first)))
            command = recorded(SERVE, shim, path, log, fault)
            async with (
                mortal_server(settings, f"life {life}", command) as server,
                reader(path, chance, trouble.pinned),
                aiohttp.ClientSession() as http,
            ):
                asker = Asker(http, journal, {}, PATIENCE)
                sessions = [f"s{n}" for n in range(SESSIONS)]
                for session in sessions:
                    await asker.ask(server.target, "PUT", f"/sessions/{session}")
                courses = [
                    Course(f"life-{life}", [server.target], sessions, asker, journal, *kinds)
                    for kinds in ((True, False), (False, True))
                ]
                has_failed = partial(has_a_failure, fault, log)
                await load(courses, chance, LARGE_ONES if trouble.pinned else 0, has_failed)
                await server.kill(journal)
        return journal, read_log(log)


def has_a_failure(fault: str, log: Path) -> bool:
    return not fault or any(record.failed for record in read_log(log))


async def load(courses: Sequence[Course], chance: Random, large: int, has_failed: Callable[[], bool]) -> None:
    """Write until enough is stored or, where nothing can be, enough is refused; and on until the fault comes.

    A slow machine puts more messages into a batch, and writes less.


    `courses` write buffered, and not.
    """
    journal = courses[0].journal
    stored, refused = journal.stored + WRITES, count_refused(journal) + REFUSALS
    seed = chance.random()

    async def work(number: int) -> None:
        own = Random(f"{seed} {number}")
        for n in range(0 if number else large):
            await write_large(courses[1], f"large-{n}", own)
        while True:
            await write(courses[own.random() > BUFFERED], own, number)
            await asyncio.sleep(own.uniform(0, LONGEST_PAUSE))

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        tasks = [group.create_task(work(number)) for number in range(WRITERS)]
        while journal.stored < stored and count_refused(journal) < refused:  # noqa: ASYNC110 - nobody counts
            await asyncio.sleep(0.01)
        most = journal.stored + 5 * WRITES
        while journal.stored < most and count_refused(journal) < refused and not has_failed():  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        # Not to their end: a write under a key is repeated until it is stored.
        for task in tasks:
            task.cancel()


async def write_large(course: Course, name: str, chance: Random) -> None:
    made = course.journal.begin(Write(chance.choice(course.sessions), (name + "x" * LARGE,)))
    body = {"role": "user", "content": made.contents[0]}
    answer = await course.asker.ask(
        course.targets[0], "POST", f"/sessions/{made.session}/messages", body, {"Prefer": "wait"}
    )
    note_answer(course, made, answer)


def count_refused(journal: Journal) -> int:
    return sum(count for name, count in journal.refusals.items() if name.startswith("503"))


@asynccontextmanager
async def reader(path: Path, chance: Random, pinned: bool) -> AsyncIterator[None]:
    """Another program has transactions open that read: a checkpoint then copies only a part."""

    async def look() -> None:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)) as connection:
            while True:
                connection.execute("BEGIN")
                connection.execute("SELECT count(*) FROM sessions").fetchall()
                await asyncio.sleep(PATIENCE if pinned else chance.uniform(0, LONGEST_READ))
                connection.execute("COMMIT")
                await asyncio.sleep(chance.uniform(0, LONGEST_AWAY))

    task = asyncio.create_task(look())
    yield
    task.cancel()
    await asyncio.wait([task])


# What a disk may hold then


def draw_cuts(records: Sequence[Record], chance: Random) -> list[tuple[int, Kind]]:
    """After how many records the power is cut, and what is on the disk then."""
    failed = [number for number, record in enumerate(records) if record.failed]
    cuts: list[tuple[int, Kind]] = []
    for _ in range(IMAGES):
        number = chance.randint(1, len(records))
        if failed and chance.random() < MOST:
            number = min(chance.choice(failed) + 1 + int(chance.expovariate(1 / SOON)), len(records))
        cuts.append((number, chance.choice(KINDS)))
    return cuts


def check_image(image: Image, journal: Journal, folder: Path) -> list[str]:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        path = lay_out(image, Path(name))
        try:
            # This recovers what the WAL holds, and brings it into the file.
            with closing(sqlite3.connect(path)) as connection:
                [(verdict,), *_] = connection.execute("PRAGMA quick_check")
            stored = read_database(f"sqlite:///{path}")
        except sqlite3.Error as error:
            return [f"damage: {error}"]
    damage = [] if verdict == "ok" else [f"damage: {verdict}"]
    return damage + check(journal_at(journal, image.at), stored, window=math.inf)


def check_with_the_program(image: Image, folder: Path) -> list[str]:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        return find_damage(f"sqlite:///{lay_out(image, Path(name))}")


def journal_at(journal: Journal, at: float) -> Journal:
    """What was asked and answered by then; each server is dead as of then."""
    found = Journal()
    for each in journal.writes:
        if each.ended <= at:
            found.writes.append(each)
        elif each.began <= at:
            unknown = replace(each, fate="unknown", ended=math.inf, seqs=(), version=0, from_agent="")
            found.writes.append(unknown)
    found.kills = {each.life: at for each in found.writes}
    return found
