"""rounds    how often a test repeats its fault: `--rounds N`, or @pytest.mark.rounds(N), or 1
seed      where chance begins: `--seed N`, or always the same; shown where a test fails
report    report(name=figure, …) prints figures in pytest's summary
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.options import FIGURES

Report = Callable[..., None]


@pytest.fixture(autouse=True)
def uncounted_faults(uncounted: None) -> None:
    """No test here counts for coverage."""


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    given: int | None = request.config.getoption("--rounds")
    marker = request.node.get_closest_marker("rounds")
    usual: int = marker.args[0] if marker else 1
    return given or usual


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    seed: int = request.config.getoption("--seed")
    print(f"repeat with --seed {seed}")
    return seed


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    def note(**figures: float | str) -> None:
        shown = (
            f"{name}={figure:.3g}" if isinstance(figure, float) else f"{name}={figure}"
            for name, figure in figures.items()
        )
        request.node.user_properties.append((FIGURES, " ".join(shown)))

    return note
