"""What the tests of whole processes share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def uncounted_processes(uncounted: None) -> None:
    """No test here counts for coverage: what is tested runs in other processes."""
