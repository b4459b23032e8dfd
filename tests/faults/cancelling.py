"""Cancels what runs at one of its awaits, whichever that is."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class CancelledAt(Generic[Result]):
    """Awaits a coroutine; the task that does so is cancelled as soon as it waits for the k-th time.

    With `again` it is cancelled at its next wait as well, which is in whatever cleans up. `waits` tells how
    often it has waited.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Result], k: int, *, again: bool = False) -> None:
        self._coroutine = coroutine
        self._at = {k, k + 1} if again else {k}
        self.waits = 0

    async def run(self) -> Result:
        """For a task of its own."""
        return await self

    def __await__(self) -> Generator[Any, Any, Result]:
        steps = self._coroutine.__await__()
        try:
            waited_for = next(steps)
            while True:
                try:
                    self._note_wait()
                    value = yield waited_for
                except BaseException as error:
                    waited_for = steps.throw(error)
                else:
                    waited_for = steps.send(value)
        except StopIteration as end:
            return end.value

    def _note_wait(self) -> None:
        self.waits += 1
        task = asyncio.current_task()
        if self.waits in self._at and task is not None:
            # Not here and now: the task is to be in its wait when it is cancelled.
            asyncio.get_running_loop().call_soon(task.cancel)
