"""File descriptors: how many connections may be open, and what happens when there are none left."""

from __future__ import annotations

import asyncio
import logging
import resource
import sys
import time
from contextlib import suppress
from typing import Any

logger = logging.getLogger("agent_runtime.http")

# What is kept free of connections: for databases, models, files, and for connections that asyncio has
# taken, up to 128 at once, and not shown to anybody yet.
RESERVE = 192
# Seconds until it is logged again.
REPEAT_SECONDS = 60.0
# The beginning of asyncio's message; uvloop closes such a connection without one.
NONE_LEFT = "socket.accept() out of system resource"


def raise_limit() -> None:
    """Take as many descriptors as the operator lets us have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Some systems call that infinite, and take no such number.
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def most_connections() -> int:
    """How many connections may be open, so that what serves them can still open what it needs."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(files // 4, min(files - RESERVE, files * 3 // 4))


class Refusals:
    """Logs that connections are refused, once in a while."""

    def __init__(self) -> None:
        self._said = -REPEAT_SECONDS

    def note(self, reason: str) -> None:
        """One was refused."""
        if time.monotonic() - self._said >= REPEAT_SECONDS:
            self._said = time.monotonic()
            logger.warning("connections are refused: %s", reason)


def quieten(loop: asyncio.AbstractEventLoop) -> None:
    """Keep asyncio from logging a traceback for each connection that it has no descriptor for: it tries
    thousands of times a second."""
    refusals = Refusals()

    def on_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if context.get("message") == NONE_LEFT:
            refusals.note("no file descriptor is left")
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(on_error)
