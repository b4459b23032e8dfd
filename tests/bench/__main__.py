"""The benchmark. Each subcommand measures in rounds that take turns, prints tables and writes JSON."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

import msgspec
from msgspec import Struct

from tests.bench import (
    append,
    growth,
    instances,
    limits,
    loops,
    memory,
    over_http,
    search,
    shutdown,
    spread,
    turns,
)
from tests.bench.databases import Databases, open_databases
from tests.bench.report import Report
from tests.bench.usual_way import benchmark as usual_way

BENCHMARKS = {
    "append": append.run,
    "spread": spread.run,
    "limits": limits.run,
    "http": over_http.run,
    "usual_way": usual_way.run,
    "growth": growth.run,
    "memory": memory.run,
    "shutdown": shutdown.run,
    "instances": instances.run,
    "turns": turns.run,
    "search": search.run,
}


def main() -> None:
    options = parse_arguments()
    rounds, seconds = (2, 0.5) if options.quick else (5, 2.0)
    with open_databases() as databases:
        machine = databases.describe()
        print(machine)
        print(f"{rounds} rounds that take turns, {seconds:g} s each")
        chosen = [options.benchmark] if options.benchmark != "all" else list(BENCHMARKS)
        report = loops.run(measure(chosen, databases, rounds, seconds, options.quick))
    path = options.json or Path(".bench", f"{options.benchmark}.json")
    write(path, Measured(machine, rounds, seconds, report))
    print(f"\nwritten to {path}")
    if options.plot:
        # Here, so that all else needs no matplotlib.
        from tests.bench.plots import draw

        draw(report, options.plot)


class Measured(Struct, frozen=True):
    """What is kept of a run: on what, how often and how long (`seconds`) was measured, and what was found."""

    machine: str
    rounds: int
    seconds: float
    report: Report


def write(path: Path, measured: Measured) -> None:
    """Keep it as JSON, every figure of every round."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(measured)))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.bench", description=__doc__)
    parser.add_argument("benchmark", choices=(*BENCHMARKS, "all"))
    parser.add_argument("--quick", action="store_true", help="a look at it, not a measurement")
    parser.add_argument("--json", type=Path, help="where to write the figures; .bench/<benchmark>.json")
    parser.add_argument("--plot", type=picture, help="draw the tables into this file, .svg or .png")
    return parser.parse_args()


def picture(text: str) -> Path:
    """Where to draw, refused before anything is measured where that cannot be drawn afterwards."""
    path = Path(text)
    if path.suffix not in (".svg", ".png"):
        raise argparse.ArgumentTypeError(f"{text} ends neither in .svg nor in .png")
    if find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError("drawing needs matplotlib: install the extra 'bench'")
    return path


async def measure(
    chosen: list[str], databases: Databases, rounds: int, seconds: float, quick: bool
) -> Report:
    """Run some of the benchmarks; each prints what it found."""
    report = Report()
    for name in chosen:
        found = await BENCHMARKS[name](databases, rounds=rounds, seconds=seconds, quick=quick)
        found.print()
        report.add(found)
    return report


if __name__ == "__main__":
    main()
