"""The benchmark. Each subcommand prints tables with the medians of several rounds that take turns."""

from __future__ import annotations

import argparse
import asyncio

from tests.bench import append, growth, over_http, turns
from tests.bench.databases import open_databases

BENCHMARKS = {"append": append.run, "http": over_http.run, "growth": growth.run, "turns": turns.run}


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.bench", description=__doc__)
    parser.add_argument("benchmark", choices=BENCHMARKS)
    parser.add_argument("--quick", action="store_true", help="a look at it, not a measurement")
    options = parser.parse_args()
    rounds, seconds = (2, 0.5) if options.quick else (5, 2.0)
    with open_databases() as databases:
        print(databases.describe())
        print(f"{rounds} rounds that take turns, {seconds:g} s each")
        asyncio.run(BENCHMARKS[options.benchmark](databases, rounds=rounds, seconds=seconds))


if __name__ == "__main__":
    main()
