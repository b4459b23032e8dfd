"""Reads a source in a thread, beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

# Called with what is done, how far it is, and its end.
Progress = Callable[[str, int, int], None]


async def in_thread(items: Iterator[T]) -> AsyncIterator[T]:
    """The items of an iterator, which reads the next one in a thread while the last one is worked on."""
    reading = asyncio.create_task(asyncio.to_thread(next, items, None))
    try:
        while (item := await reading) is not None:
            reading = asyncio.create_task(asyncio.to_thread(next, items, None))
            yield item
    finally:
        # The source is closed afterwards, which must not happen while a thread reads it.
        with suppress(Exception):
            await asyncio.wait([reading])
