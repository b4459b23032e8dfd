"""Work that a cancellation of its caller does not interrupt: a rollback, a close, a write in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


async def run_to_completion(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Await a coroutine to its end; a cancellation meanwhile is raised only then."""
    task = asyncio.ensure_future(coroutine)
    cancelled: asyncio.CancelledError | None = None
    try:
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is None:
            return task.result()
        if not task.cancelled():
            task.exception()  # Retrieved here, or asyncio logs it as never retrieved.
        raise cancelled
    finally:
        # The error of a task holds this frame, and with it all that the task holds.
        del task


async def run_detached(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Await a coroutine; a cancellation is raised at once, and the work goes on to its end."""
    task = asyncio.create_task(coroutine)
    # Retrieves the error, or asyncio logs it as never retrieved.
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        return await asyncio.shield(task)
    finally:
        # The error of a task holds this frame, and with it all that the task holds.
        del task
