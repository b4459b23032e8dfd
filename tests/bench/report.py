"""What a benchmark has to say: tables of what was compared, and which goals were reached."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from msgspec import Struct, field


class Comparison(Struct, frozen=True):
    """One table: for each thing that was measured, its figure of every round, in `unit`.

    `beside` names the row that the others are shown as a multiple of.
    """

    title: str
    unit: str
    results: Mapping[str, Sequence[float]]
    beside: str = ""

    def median(self, name: str) -> float:
        """The figure that stands for a row."""
        return statistics.median(self.results[name])

    def ratio(self, name: str, beside: str = "") -> float:
        """A row as a multiple of another: of `beside` where none is named."""
        return self.median(name) / self.median(beside or self.beside)

    def print(self) -> None:
        """The table: medians, and how far the rounds were apart."""
        header = (self.unit, "median", "least", "most", *((f"of {self.beside}",) if self.beside else ()))
        print_table(self.title, header, [self._row(name) for name in self.results])

    def _row(self, name: str) -> tuple[str, ...]:
        figures = self.results[name]
        shown = [show_number(figure) for figure in (self.median(name), min(figures), max(figures))]
        return (name, *shown, *((f"{self.ratio(name):.2f}",) if self.beside else ()))


class Goal(Struct, frozen=True):
    """What was to be reached, and what was: at least `wanted`, or at most."""

    what: str
    reached: float
    wanted: float
    at_most: bool = False

    @property
    def held(self) -> bool:
        return self.reached <= self.wanted if self.at_most else self.reached >= self.wanted


class Report(Struct, frozen=True):
    """All that one benchmark found. `notes` are lines to be read beside the tables."""

    comparisons: list[Comparison] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, other: Report) -> None:
        """Take in what another one found."""
        self.comparisons.extend(other.comparisons)
        self.goals.extend(other.goals)
        self.notes.extend(other.notes)

    def print(self) -> None:
        """Every table, and the goals at the end."""
        for comparison in self.comparisons:
            comparison.print()
        if self.goals:
            rows = [
                (goal.what, f"{goal.reached:.3g}", _bound(goal), "held" if goal.held else "missed")
                for goal in self.goals
            ]
            print_table("goals", ("goal", "reached", "wanted", ""), rows)
        for note in self.notes:
            print(f"\n{note}")


def _bound(goal: Goal) -> str:
    return f"at {'most' if goal.at_most else 'least'} {goal.wanted:g}"


def show_number(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table with the first column to the left and the numbers to the right."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    print(f"\n{title}\n")
    for line in lines:
        cells = [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
        print("  " + "  ".join(cells))
