"""Measures that take turns, and the tables that show them."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence

# One round of a measure: what it says is a rate, or seconds.
Measure = Callable[[], Awaitable[float]]


async def take_turns(measures: Mapping[str, Measure], rounds: int) -> dict[str, list[float]]:
    """Run every measure once a round, A B A B …: what disturbs the machine disturbs all of them."""
    results: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            results[name].append(await measure())
    return results


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table with the first column to the left and the numbers to the right."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    print(f"\n{title}\n")
    for line in lines:
        cells = [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
        print("  " + "  ".join(cells))


def print_rates(title: str, results: Mapping[str, Sequence[float]]) -> None:
    """What each measure reached a second: the median of its rounds, the least and the most."""
    rows = [
        (name, f"{statistics.median(values):,.0f}", f"{min(values):,.0f}", f"{max(values):,.0f}")
        for name, values in results.items()
    ]
    print_table(title, ("per second", "median", "least", "most"), rows)


def print_ratio(title: str, results: Mapping[str, Sequence[float]]) -> None:
    """The seconds of two measures in milliseconds, and how the second compares with the first."""
    medians = {name: statistics.median(values) for name, values in results.items()}
    first, second = medians.values()
    rows = [
        (name, f"{value * 1e3:,.2f}", f"{min(results[name]) * 1e3:,.2f}", f"{max(results[name]) * 1e3:,.2f}")
        for name, value in medians.items()
    ]
    print_table(f"{title}: ratio {second / first:.2f}", ("milliseconds", "median", "least", "most"), rows)
