"""Retries while the database is unavailable."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from runtime.errors import DatabaseError, NotStored, ShuttingDown

logger = logging.getLogger("agent_runtime.retry")

# Seconds between two attempts: the first pause, and the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0

T = TypeVar("T")


def growing_pauses(first: float = FIRST_PAUSE, longest: float = LONGEST_PAUSE) -> Iterator[float]:
    """Pauses in seconds, each twice as long as the one before.

    Each is shortened by a random part, up to half, so that instances do not retry in step.
    """
    pause = first
    while True:
        yield pause * random.uniform(0.5, 1.0)
        pause = min(pause * 2, longest)


async def retry_until_available(attempt: Callable[[], Awaitable[T]], timeout: float, what: str) -> T:
    """Return the result of the first attempt that does not fail for the database, for `timeout` seconds.

    `what` names the work in the log. Raises the last NotStored or DatabaseError, and any other error at once.
    """
    give_up = asyncio.get_running_loop().time() + timeout
    for pause in growing_pauses():
        try:
            return await attempt()
        except (NotStored, DatabaseError) as error:
            late = asyncio.get_running_loop().time() >= give_up
            if late or isinstance(error, ShuttingDown):
                raise
            logger.warning("%s waits for the database: %s", what, error)
        await asyncio.sleep(pause)
    raise AssertionError("the pauses never end")
