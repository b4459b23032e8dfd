"""Names of tests can be read in a listing."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
MOST_CHARACTERS = 69


def test_names_of_tests_are_short() -> None:
    names = {
        name
        for path in TESTS.rglob("*.py")
        for name in re.findall(r"def (test_\w+)", path.read_text("utf-8"))
    }
    assert len(names) > 1000
    assert {name for name in names if len(name) > MOST_CHARACTERS} == set()
