"""What is exported arrives on the other database exactly as it was, and is exported as the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.transfer.exporting import export, export_to, fill
from tests.transfer.importing import import_into

pytestmark = [pytest.mark.usefixtures("uncounted"), pytest.mark.slow]


async def test_there_and_back_again_it_is_the_same_bytes(
    tmp_path: Path, sqlite_url: str, postgres_url: str, empty_sqlite_url: str
) -> None:
    await fill(sqlite_url)
    for source, target in ((sqlite_url, postgres_url), (postgres_url, empty_sqlite_url)):
        path = await export_to(source, tmp_path / "export.jsonl")
        report = await import_into(target, str(path))
        assert (report.lost, report.changed, report.differing.names) == ({}, {}, [])
        assert vars(report.read) == vars(report.stored)
        assert await export(target) == await export(source)
