"""Lets requests begin a few at a time.

In each turn of the event loop every connection that has a request would begin it, thousands of them under
overload, and a batch of the writer needs several turns: it would be stored once in many seconds, and all
that came meanwhile refused.
"""

from __future__ import annotations

import asyncio
from collections import deque

from runtime.errors import Overloaded

# Requests that begin in one turn: about 2 ms of work. At 8 most wait for a later one, which costs each 10 us;
# with many more a batch gets too few turns under overload (see tests/faults/test_overload.py).
PER_TURN = 16
# More are not begun within half a WRITE_TIMEOUT of 10 s, at the 2,500 a second that one core takes.
MOST_WAITING = 12_500


class Throttle:
    """A request that finds the loop's turn full waits for a later one, in order, for `patience` seconds."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._begun = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def begin(self) -> None:
        """Return when the request may begin. Raises Overloaded where that took too long."""
        if self._begun < PER_TURN and not self._waiting:
            self._count()
            return
        if len(self._waiting) >= MOST_WAITING:  # W9
            raise Overloaded("too many requests are waiting already; try again later")
        loop = asyncio.get_running_loop()
        came = loop.time()
        turn = loop.create_future()
        self._waiting.append(turn)
        await turn
        if loop.time() - came > self._patience:
            raise Overloaded("too many requests are waiting already; try again later")

    def _count(self) -> None:
        if not self._begun:
            asyncio.get_running_loop().call_soon(self._next_turn)
        self._begun += 1

    def _next_turn(self) -> None:
        self._begun = 0
        while self._waiting and self._begun < PER_TURN:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._count()
