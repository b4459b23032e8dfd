"""The repository as a whole: what stands at the top, and what stands nowhere."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
AGREED = {
    "runtime",
    "sql",
    "migrations",
    "tests",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
}
IGNORED = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").split()]
TEXTS = {".py", ".md", ".sql", ".toml", ""}


def is_ours(name: str) -> bool:
    return not any(fnmatch.fnmatch(name, pattern) for pattern in IGNORED)


def test_only_the_agreed_entries_stand_at_the_top() -> None:
    found = {path.name for path in ROOT.iterdir() if is_ours(path.name) and not path.name.startswith(".")}
    assert found == AGREED


def test_no_path_of_a_persons_machine_stands_anywhere() -> None:
    pattern = re.compile(r"(?<![\w.~:/])/(?:home|root|Users|tmp|wor[k])/")
    tops = [ROOT / name for name in AGREED] + [ROOT / ".ci"]
    paths = [path for top in tops for path in (top.rglob("*") if top.is_dir() else [top])]
    texts = [path for path in paths if path.is_file() and path.suffix in TEXTS and is_ours(path.parent.name)]
    assert [str(path) for path in texts if pattern.search(path.read_text(encoding="utf-8"))] == []
