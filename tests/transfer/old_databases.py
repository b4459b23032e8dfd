"""Databases of the older service, filled by each version's own code, and what an import of them has to yield.

tests/data/old-databases/README.md says what is in them.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import psycopg

FOLDER = Path(__file__).parents[1] / "data" / "old-databases"
DUMP = "d1fce7d.postgres.sql"
FILES: tuple[str, ...] = (
    *("174717a.db", "c4e3664.db", "ec0971d.db", "aa20a02.db", "85e2625.db", "b50f487.db", "6d3bcf2.db"),
    *("d1fce7d.db", "5b01f1b.db"),
)


def read(name: str) -> bytes:
    """The content of one of the files."""
    return gzip.decompress((FOLDER / f"{name}.gz").read_bytes())


def unpack(name: str, folder: Path) -> Path:
    """One of the SQLite files, alone in a new folder below this one."""
    (folder / "old").mkdir()
    path = folder / "old" / name
    path.write_bytes(read(name))
    return path


def restore(url: str) -> None:
    """Fill an empty Postgres from the dump."""
    with psycopg.connect(url, autocommit=True) as connection:
        # As bytes: texts in it hold carriage returns.
        connection.execute(read(DUMP))  # type: ignore[arg-type]


def expected(name: str) -> dict[str, Any]:
    """What an import of it yields."""
    files: dict[str, Any] = json.loads(read("expected.json"))["files"]
    return files[name]  # type: ignore[no-any-return]


def fingerprints(folder: Path) -> dict[str, str]:
    """Each file of a folder by its name, and the hash of its bytes."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
