"""The types that a caller of the store sees, checked by mypy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_type_checker_knows_outcomes_and_finds_mistakes() -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "tests/unit/store_types.py"]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    # In that module each mistake is marked with `type: ignore`: strict mypy reports a mark without a mistake.
    assert run.returncode == 0, run.stdout + run.stderr
