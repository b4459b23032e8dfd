"""Exports and imports that are killed, or run out of disk, and what they take of memory."""

from __future__ import annotations

import gc
import signal
import tracemalloc
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from random import Random

import pytest

from runtime.config import Settings
from runtime.errors import DatabaseError, NotStored
from runtime.models import utc_now
from runtime.store import imports
from runtime.store.read.export_reader import ExportScope, read_export
from runtime.store.store import open_store
from runtime.transfer.export_output import write_file
from runtime.transfer.importer import Importer
from runtime.transfer.report import Report
from runtime.transfer.sources import open_source
from tests.faults.disks import ballast, small_disk
from tests.support.server_process import run_command
from tests.transfer.exporting import export, export_to, fill
from tests.transfer.importing import import_into
from tests.transfer.test_import_command import kill_import, run_import

pytestmark = [pytest.mark.usefixtures("uncounted"), pytest.mark.slow]

# Of the import of what `fill` stores, in portions as small as `dying_import` makes them.
TRANSACTIONS = 100


async def test_killed_ten_times_and_repeated_it_is_the_same(
    tmp_path: Path, database_url: str, empty_sqlite_url: str
) -> None:
    await fill(empty_sqlite_url)
    path = await export_to(empty_sqlite_url, tmp_path / "export.jsonl")
    for transaction in sorted(Random(13).sample(range(1, TRANSACTIONS), 10)):
        assert kill_import(database_url, transaction, path) == -signal.SIGKILL
    ended = run_import(database_url, str(path))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "every imported session is as in the source" in ended.stdout
    assert await export(database_url) == await export(empty_sqlite_url)


async def test_an_import_onto_a_full_disk_is_repeated_when_there_is_room(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "PATIENCE", 0.5)
    await fill(sqlite_url)
    path = await export_to(sqlite_url, tmp_path / "export.jsonl")
    with small_disk(tmp_path / "disk", 64) as disk:
        url = f"sqlite:///{disk}/agent_runtime.db"
        async with open_store(url, Settings(write_timeout=1.0)) as store:
            with ballast(disk), open_source(str(path), "", None) as source:
                report = Report(source.name, source.description, url)
                with pytest.raises((NotStored, DatabaseError)):
                    await Importer(source, store, report, lambda *_: None).run(merge=False)
        report = await import_into(url, str(path))
        assert report.differing.names == []
        assert await export(url) == await export(sqlite_url)


async def test_an_export_onto_a_full_disk_leaves_no_file(tmp_path: Path, database_url: str) -> None:
    await fill(database_url)
    with small_disk(tmp_path / "disk", 1) as disk:
        with ballast(disk):
            ended = run_command("export", str(disk / "x.jsonl"), env={"DB_URL": database_url})
        assert (ended.returncode, ended.stdout) == (1, "")
        [line] = ended.stderr.splitlines()
        assert "x.jsonl: No space left on device" in line
        assert list(disk.iterdir()) == []


async def test_an_export_over_a_full_folder_of_temporary_files_is_an_error(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(database_url)
    with small_disk(tmp_path / "disk", 1) as disk:
        (disk / "room").write_bytes(bytes(900_000))
        monkeypatch.setenv("TMPDIR", str(disk))
        ended = run_command("export", env={"DB_URL": database_url})
        assert ended.returncode == 2
        assert f"it cannot be kept in {disk}: No space left on device" in ended.stderr
        assert '\n{"end":' not in ended.stdout


# Memory

TEXT = "a few words of it " * 200


async def fill_plain(url: str, sessions: int) -> None:
    async with open_store(url) as store:
        for n in range(sessions):
            messages = [{"role": "user", "content": f"{TEXT}{n}"}] * 50
            await store.create_session(f"s{n}", messages=messages)


async def peak(work: Callable[[], Awaitable[None]]) -> int:
    """The most bytes that Python held at a time while it was done, beyond those before."""
    gc.collect()
    tracemalloc.start()
    try:
        await work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


async def test_memory_does_not_grow_with_the_size(tmp_path: Path, sqlite_template: Path) -> None:
    """Four times as much, of which the less fills every buffer, takes hardly more."""
    small, large = [await peaks(tmp_path / name, sessions) for name, sessions in (("a", 40), ("b", 160))]
    for few, many in zip(small, large, strict=True):
        assert many < 1.3 * few + 2_000_000, (small, large)


async def peaks(folder: Path, sessions: int) -> tuple[int, int]:
    """The peaks of an export and of an import of so many sessions."""
    folder.mkdir()
    source, target = f"sqlite:///{folder}/source.db", f"sqlite:///{folder}/target.db"
    path = folder / "x.jsonl"
    await fill_plain(source, sessions)

    async def write() -> None:
        async with open_store(source, Settings(cache_bytes=0)) as store:
            reading = read_export(store._core.database, ExportScope(), utc_now())
            async with aclosing(reading) as pieces:
                await write_file(pieces, path, overwrite=False)

    async def read() -> None:
        settings = Settings(cache_bytes=0)
        async with open_store(target, settings) as store:
            with open_source(str(path), "", None) as opened:
                report = Report(opened.name, opened.description, target)
                await Importer(opened, store, report, lambda *_: None).run(merge=False)
                assert report.differing.names == []

    return await peak(write), await peak(read)
