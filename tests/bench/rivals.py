"""The peers as the appends meet them. One that fails is left out, and a note says why: the rest goes on."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial

from tests.bench.databases import Databases
from tests.bench.measuring import Measure
from tests.bench.peers import environment
from tests.bench.workers import Worker, open_worker


async def find_python(notes: list[str]) -> str:
    """The Python of the peers' environment, made where it is missing; "" where that fails."""
    try:
        python = await environment.prepare()
        notes.append(f"the peers: {', '.join(await environment.versions())}")
    except Exception as error:
        notes.append(f"no peers were measured: {one_line(error)}")
        return ""
    return python


class Rivals:
    """The peers that are open, each in a process and on a database of its own."""

    def __init__(self, notes: list[str]) -> None:
        self._notes = notes
        self._workers: dict[str, Worker] = {}

    async def open(self, stack: AsyncExitStack, databases: Databases, kind: str, python: str) -> None:
        """Start all that there are for this kind of database, until the stack is closed."""

        async def start(name: str, module: str) -> None:
            url = (await databases.make_empty())[kind]
            try:
                self._workers[name] = await stack.enter_async_context(open_worker(module, url, python))
            except Exception as error:
                self._leave_out(name, error)

        await asyncio.gather(*(start(*peer) for peer in environment.PEERS[kind].items()))

    def measures(self, callers: int, seconds: float) -> dict[str, Measure]:
        """Appends a second of each, or NaN where it has failed."""
        return {name: partial(self._rate, name, callers, seconds) for name in sorted(self._workers)}

    async def _rate(self, name: str, callers: int, seconds: float) -> float:
        if name not in self._workers:
            return math.nan
        try:
            return (await self._workers[name].measure(callers, seconds))["rate"]
        except Exception as error:
            self._leave_out(f"{name} with {callers} callers", error)
            del self._workers[name]
            return math.nan

    def _leave_out(self, what: str, error: Exception) -> None:
        self._notes.append(f"left out: {what}: {one_line(error)}")


def without_failed(results: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
    """The rows of which no round failed."""
    return {name: figures for name, figures in results.items() if not any(map(math.isnan, figures))}


def one_line(error: Exception) -> str:
    """What an error says, cut off where it is long, and without the folders of this machine."""
    line = (str(error).strip() or type(error).__name__).splitlines()[-1]
    return re.sub(r"/[^\s'\"]*/", "", line)[:200]
