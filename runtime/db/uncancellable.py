"""What must run to its end although the caller is cancelled: a rollback, a close."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


async def finish(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Await to the end; a cancellation that comes meanwhile goes on upwards only then."""
    task = asyncio.ensure_future(coroutine)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # Seen here, or asyncio reports it as forgotten.
    raise cancelled
