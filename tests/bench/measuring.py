"""Measures that take turns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

# One round of a measure: what it says is a rate, or seconds.
Measure = Callable[[], Awaitable[float]]


async def take_turns(measures: Mapping[str, Measure], rounds: int) -> dict[str, list[float]]:
    """Run every measure once a round, A B A B …: what disturbs the machine disturbs all of them."""
    results: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            results[name].append(await measure())
    return results
