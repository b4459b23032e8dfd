"""What these tests add to pytest: how long they run, from which seed, and the figures that they report."""

from __future__ import annotations

import pytest

DEFAULT_SEED = 20261121
FIGURES = "figures"


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--rounds N` and `--seed N`."""
    parser.addoption("--rounds", type=int, help="rounds of each test of faults, instead of its own number")
    parser.addoption(
        "--seed", type=int, default=DEFAULT_SEED, help="the seed of chance in the tests of faults"
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each test that reported figures: `faults: TEST name=figure …`."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            for name, figures in report.user_properties:
                if name == FIGURES:
                    terminalreporter.write_line(f"faults: {report.nodeid.rpartition('/')[2]} {figures}")
