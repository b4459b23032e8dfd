"""A turn outlives a database that is away, or too busy, for a while; and a caller who goes away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from runtime.errors import DatabaseError, NotStored, ShuttingDown

logger = logging.getLogger("agent_runtime.turns")

# Seconds: for how long something is tried, and the pause between two tries.
PATIENCE = 60.0
RETRY_PAUSE = 1.0

T = TypeVar("T")


async def retry_until_available(attempt: Callable[[], Awaitable[T]], turn_id: str) -> T:
    """What the attempt comes to, at the first time that the database is there.

    Raises the last NotStored or DatabaseError, and at once what trying again would not change.
    """
    give_up = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            return await attempt()
        except (NotStored, DatabaseError) as error:
            late = asyncio.get_running_loop().time() > give_up
            if late or isinstance(error, ShuttingDown):
                raise
            logger.warning("turn %s waits for the database: %s", turn_id, error)
        await asyncio.sleep(RETRY_PAUSE)


async def unbroken(work: Coroutine[Any, Any, T]) -> T:
    """What the work comes to. It goes on to its end also where the caller is cancelled."""
    task = asyncio.create_task(work)
    # Then nobody else looks at its error, and asyncio would complain.
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        return await asyncio.shield(task)
    finally:
        # Its error holds this frame, and with it all that the turn was asked.
        del task
