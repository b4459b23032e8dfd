"""A process with one store in it, that is told how many callers shall append and says how fast they were.

The stores that are compared each have one, open for the whole run, and take turns. Only the standard library
is needed here: the peers run it in an environment of their own.
"""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from itertools import cycle

from tests.bench import loops

SESSIONS = [f"session-{number}" for number in range(50)]
TEXT = "Could you find me a flight that leaves early, please? " * 10
MESSAGE = {"role": "user", "content": TEXT}

# Appends MESSAGE to a session, and returns when it is stored.
Append = Callable[[str], Awaitable[object]]
# Opens the store at a URL, makes SESSIONS in it, and gives what appends to them.
Opener = Callable[[str], AbstractAsyncContextManager[Append]]


def main(opener: Opener) -> None:
    """Serve what is asked on stdin until it ends. The URL of the store is the first argument."""
    loops.run(_serve(opener, sys.argv[1]))


async def _serve(opener: Opener, url: str) -> None:
    async with opener(url) as append:
        _say({"ready": True})
        while line := await asyncio.to_thread(sys.stdin.readline):
            _say(await measure(append, **json.loads(line)))


def _say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


async def measure(append: Append, callers: int, seconds: float) -> dict[str, float]:
    """Appends a second by so many callers, each waiting for one before the next, and the median of one."""
    sessions = cycle(SESSIONS)
    took: list[float] = []
    gc.collect()
    started = time.perf_counter()
    deadline = started + seconds

    async def call() -> None:
        while (began := time.perf_counter()) < deadline:
            await append(next(sessions))
            took.append(time.perf_counter() - began)

    await asyncio.gather(*(call() for _ in range(callers)))
    return {"rate": len(took) / (time.perf_counter() - started), "median": statistics.median(took)}
