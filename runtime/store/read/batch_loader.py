"""Coalesces concurrent look-ups by key into one query."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

from runtime.db.database import Row
from runtime.errors import DatabaseUnavailable
from runtime.store.validation import json_list

K = TypeVar("K", bound=Hashable)

# Concurrent queries. Further look-ups gather for the next query.
AT_ONCE = 2
# The most seconds that a query waits for earlier ones.
PATIENCE = 0.1


class BatchLoader(Generic[K]):
    """Finds rows by `fetch`, which takes the keys as a JSON array; `key_of` returns the key of a row.

    A query starts after the calls that it serves: no caller gets a row older than its call.
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
            # Retrieves the error: all callers may have been cancelled.
            self._next.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            return (await asyncio.shield(self._next)).get(key)
        except DatabaseUnavailable as error:
            # Each caller gets its own error, with the shared cause.
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
        """Wait for an earlier query; return False after PATIENCE: one on a dead connection may hang."""
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._turns.acquire()
        except TimeoutError:
            return False
