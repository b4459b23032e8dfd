"""The benchmark's report: what its tables and goals say follows from the figures of the rounds."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from tests.bench.__main__ import Measured, picture, write
from tests.bench.measuring import take_turns
from tests.bench.report import Comparison, Goal, Report
from tests.bench.rivals import one_line, without_failed
from tests.bench.workers import WorkerFailed, open_worker

RATES = Comparison("appends", "appends/s", {"ours": [900.0, 100.0, 400.0], "peer": [50.0, 30.0]}, "ours")


def test_a_row_stands_for_its_median_whatever_the_order_of_the_rounds() -> None:
    assert RATES.median("ours") == 400
    assert RATES.median("peer") == 40


def test_a_ratio_is_of_medians_and_beside_the_row_that_is_named() -> None:
    assert RATES.ratio("peer") == 0.1
    assert RATES.ratio("ours", "peer") == 10


def test_a_table_shows_median_least_most_and_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    RATES.print()
    _, title, _, header, ours, peer = capsys.readouterr().out.split("\n")[:6]
    assert title == "appends"
    assert header.split() == ["appends/s", "median", "least", "most", "of", "ours"]
    assert ours.split() == ["ours", "400", "100", "900", "1.00"]
    assert peer.split() == ["peer", "40", "30", "50", "0.10"]


@pytest.mark.parametrize(("reached", "held"), [(11.9, False), (12.0, True), (12.1, True)])
def test_a_goal_is_held_from_its_bound_on(reached: float, held: bool) -> None:
    assert Goal("times the peer", reached, 12).held is held


@pytest.mark.parametrize(("reached", "held"), [(0.4, True), (0.5, True), (0.6, False)])
def test_a_goal_at_most_is_held_up_to_its_bound(reached: float, held: bool) -> None:
    assert Goal("ms added", reached, 0.5, at_most=True).held is held


def test_a_missed_goal_is_shown_as_missed(capsys: pytest.CaptureFixture[str]) -> None:
    Report(goals=[Goal("times", 3, 12), Goal("ms", 0.25, 0.5, at_most=True)], notes=["a note"]).print()
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["times", "3", "at", "least", "12", "missed"] in lines
    assert ["ms", "0.25", "at", "most", "0.5", "held"] in lines
    assert lines[-1] == ["a", "note"]


def test_the_json_has_every_figure(tmp_path: Path) -> None:
    report = Report([RATES], [Goal("times the peer", 10, 12)], ["a note"])
    write(tmp_path / "new" / "append.json", Measured("2 cores", 3, 0.5, report))
    assert json.loads((tmp_path / "new" / "append.json").read_bytes()) == {
        "machine": "2 cores",
        "rounds": 3,
        "seconds": 0.5,
        "report": {
            "comparisons": [
                {
                    "title": "appends",
                    "unit": "appends/s",
                    "results": {"ours": [900.0, 100.0, 400.0], "peer": [50.0, 30.0]},
                    "beside": "ours",
                }
            ],
            "goals": [{"what": "times the peer", "reached": 10.0, "wanted": 12.0, "at_most": False}],
            "notes": ["a note"],
        },
    }


async def test_measures_take_turns() -> None:
    order: list[str] = []

    async def measure(name: str) -> float:
        order.append(name)
        return float(len(order))

    results = await take_turns({"A": lambda: measure("A"), "B": lambda: measure("B")}, 2)
    assert order == ["A", "B", "A", "B"]
    assert results == {"A": [1, 3], "B": [2, 4]}


def test_a_row_with_a_failed_round_is_left_out() -> None:
    assert without_failed({"ours": [1.0, 2.0], "peer": [1.0, float("nan")]}) == {"ours": [1.0, 2.0]}


def test_why_a_peer_is_left_out_is_told_in_one_line_without_folders() -> None:
    error = RuntimeError(
        "Traceback\n\nIOError: '/var/somewhere/bench.db' is gone, https://example.org/e/1 knows"
    )
    assert one_line(error) == "IOError: 'bench.db' is gone, https:1 knows"
    assert one_line(TimeoutError()) == "TimeoutError"


async def test_a_worker_that_cannot_start_says_why() -> None:
    with pytest.raises(WorkerFailed, match="No module named"):
        async with open_worker("tests.bench.nobody", "sqlite:///none"):
            pass


async def test_a_worker_that_fails_later_says_why(tmp_path: Path) -> None:
    async with open_worker("tests.bench.ours", f"sqlite:///{tmp_path / 'bench.db'}") as worker:
        assert (await worker.measure(callers=2, seconds=0.01))["rate"] > 0
        with pytest.raises(WorkerFailed, match="StatisticsError: no median for empty data"):
            await worker.measure(callers=0, seconds=0.01)


@pytest.mark.parametrize("name", ["tables.jpg", "tables"])
def test_a_picture_of_another_kind_is_refused_before_anything_is_measured(name: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"neither in \.svg nor in \.png"):
        picture(name)
