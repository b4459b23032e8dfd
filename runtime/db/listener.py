"""Receives the notifications of other instances (R2), on a connection of its own that it keeps alive."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from runtime.retry import growing_pauses

logger = logging.getLogger("agent_runtime.db")

CHANNEL = "agent_runtime"

# Seconds: between two heartbeats, for the answer to one, and between attempts to connect.
HEARTBEAT_SECONDS = 10.0
HEARTBEAT_TIMEOUT = 5.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0


class Listener:
    """Calls `on_payload` with each notification, and `on_gap` after each (re)connect."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Any]],
        heartbeat: str,
        on_payload: Callable[[str], None],
        on_gap: Callable[[], None],
    ) -> None:
        self._connect = connect
        self._heartbeat = heartbeat
        self._on_payload = on_payload
        self._on_gap = on_gap
        self._pauses = growing_pauses(FIRST_PAUSE, LONGEST_PAUSE)
        # Whether a connection is there, whether one ever broke, and when the last one came (the loop's time).
        self._connected = self._broken = False
        self._back_at = 0.0

    def was_lost(self, seconds: float) -> bool:
        """Whether a connection broke, and the next one is not there yet or came within so many seconds."""
        if not self._broken:
            return False
        return not self._connected or asyncio.get_running_loop().time() - self._back_at < seconds

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                await self._hear_until_lost()
            except Exception as error:
                logger.warning("not listening to the database for now: %s", error or type(error).__name__)
            await asyncio.sleep(next(self._pauses))

    async def _hear_until_lost(self) -> None:
        connection = await self._connect()
        try:
            lost = asyncio.Event()
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener(CHANNEL, self._hear)
            self._pauses = growing_pauses(FIRST_PAUSE, LONGEST_PAUSE)
            self._connected, self._back_at = True, asyncio.get_running_loop().time()
            self._on_gap()
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(HEARTBEAT_SECONDS):
                        await lost.wait()
                # LISTEN dies silently with its connection; this fails where that is dead or closed.
                await connection.fetch(self._heartbeat, timeout=HEARTBEAT_TIMEOUT)
        finally:
            self._broken = self._broken or self._connected
            self._connected = False
            connection.terminate()

    def _hear(self, _connection: Any, _process: int, _channel: str, payload: str) -> None:
        self._on_payload(payload)
