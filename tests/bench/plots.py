"""Draws the tables of a report: a bar for each median, and a line from the least round to the most."""

from __future__ import annotations

import math
from itertools import zip_longest
from pathlib import Path
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.bench.report import Comparison, Report, show_number

COLUMNS = 2
# Inches: the width of a table, the height of a bar, and what a title and an axis take.
WIDTH, BAR, MIDDLEWARE = 7.5, 0.3, 1.0
# Characters of a line of a title.
TITLE = 60
# Of the row that the others are shown as a multiple of, and of the others.
COLOURS = {True: "#c44e52", False: "#4c72b0"}


def draw(report: Report, path: Path) -> None:
    """Draw all tables side by side into one file; its suffix says whether as SVG or PNG."""
    rows = math.ceil(len(report.comparisons) / COLUMNS)
    heights = [row_height(report.comparisons[row * COLUMNS :][:COLUMNS]) for row in range(rows)]
    figure = Figure(figsize=(COLUMNS * WIDTH, sum(heights)), layout="constrained")
    places = figure.subplots(rows, COLUMNS, squeeze=False, height_ratios=heights).flatten()
    for axes, comparison in zip_longest(places, report.comparisons):
        if comparison is None:
            axes.remove()
        else:
            draw_comparison(axes, comparison)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def row_height(comparisons: list[Comparison]) -> float:
    return MIDDLEWARE + BAR * max(len(comparison.results) for comparison in comparisons)


def draw_comparison(axes: Axes, comparison: Comparison) -> None:
    """One table, its first row at the top."""
    names = list(comparison.results)
    medians = [comparison.median(name) for name in names]
    below = [median - min(comparison.results[name]) for name, median in zip(names, medians, strict=True)]
    above = [max(comparison.results[name]) - median for name, median in zip(names, medians, strict=True)]
    colours = [COLOURS[name == comparison.beside] for name in names]
    bars = axes.barh(names, medians, xerr=(below, above), color=colours, capsize=3, height=0.7)
    axes.bar_label(bars, [show_number(median) for median in medians], padding=4, fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_title(fill(comparison.title, TITLE), loc="left", fontsize=10, fontweight="bold")
    axes.set_xlabel(comparison.unit)
    axes.locator_params(axis="x", nbins=6)
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.spines[["top", "right"]].set_visible(False)
