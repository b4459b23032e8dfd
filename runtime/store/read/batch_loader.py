"""Look-ups by key that many callers share, as writes share a transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

from runtime.db.database import Row
from runtime.errors import DatabaseUnavailable
from runtime.store.validation import json_list

K = TypeVar("K", bound=Hashable)

# While one answer is on its way the next question may go already, and whoever asks meanwhile joins the one
# after that.
AT_ONCE = 2
# Seconds that one waits for those before it at most.
PATIENCE = 0.1


class BatchLoader(Generic[K]):
    """Finds rows by `fetch`, which takes the keys as a JSON array; `key_of` tells which key a row answers.

    The database is asked after each call, never before: what a caller finds is not older than its question.
    """

    def __init__(self, fetch: Callable[[str], Awaitable[Sequence[Row]]], key_of: Callable[[Row], K]) -> None:
        self._fetch = fetch
        self._key_of = key_of
        self._asked: set[K] = set()
        self._next: asyncio.Task[Mapping[K, Row]] | None = None
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def find(self, key: K) -> Row | None:
        """The row of this key, if there is one. Raises DatabaseError."""
        self._asked.add(key)
        if self._next is None:
            self._next = asyncio.create_task(self._find_asked())
            self._next.add_done_callback(_look_at)
        try:
            return (await asyncio.shield(self._next)).get(key)
        except DatabaseUnavailable as error:
            # Each caller gets an error of its own, with the cause that they share.
            raise DatabaseUnavailable(str(error)) from error.__cause__

    async def _find_asked(self) -> Mapping[K, Row]:
        in_turn = await self._wait_for_turn()
        try:
            asked, self._asked, self._next = self._asked, set(), None
            rows = await self._fetch(json_list(asked))
        finally:
            if in_turn:
                self._turns.release()
        return {self._key_of(row): row for row in rows}

    async def _wait_for_turn(self) -> bool:
        """Whether a turn came in time: one that hangs on a dead line must not hold up all others."""
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._turns.acquire()
        except TimeoutError:
            return False


def _look_at(task: asyncio.Task[Mapping[K, Row]]) -> None:
    """Nobody else may: those who asked may all have gone away."""
    if not task.cancelled():
        task.exception()
