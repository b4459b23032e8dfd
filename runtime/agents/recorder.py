"""Stores a running turn: the text of the model joined, a few times a second, and each step at once. Followers
get only what is stored."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Callable
from typing import Any

import msgspec

from runtime.errors import AgentRuntimeError
from runtime.models import Turn
from runtime.retry import retry_until_available
from runtime.store.records import SessionKey
from runtime.store.turn_store import TurnStore
from runtime.store.write.outcomes import TurnWritten
from runtime.store.write.turn_commands import AdvanceTurn
from runtime.uncancellable import run_detached

# Seconds. Text within the pause after one write is joined in the next; the first word, and
# every word of a slow model, waits for none.
PAUSE = 0.05
WRITING_TO_PAUSE = 2.0
# Pieces are joined until they have so many characters; none is cut.
PIECE = 500
# How long a step is retried while the database is unavailable, in seconds.
PATIENCE = 60.0
# A sign of life, also while the model is silent: well within the lease.
RENEWAL = 5.0


class Recorder:
    """`on_stop` is called when the turn is asked to stop, `on_loss` with the error that ends recording."""

    def __init__(
        self,
        turns: TurnStore,
        key: SessionKey,
        turn: TurnWritten,
        on_stop: Callable[[], None],
        on_loss: Callable[[Exception], None],
    ) -> None:
        self._turns = turns
        self._key = key
        self._turn_id = turn.turn.turn_id
        self._beat = turn.beat
        self._on_stop = on_stop
        self._on_loss = on_loss
        self.ended: Turn | None = None
        # The text since the last step, and the pieces of it that are not stored yet.
        self._said = io.StringIO()
        self._texts: list[str] = []
        self._news = asyncio.Event()
        self._closed = asyncio.Event()
        self._writing = asyncio.Lock()

    @property
    def said(self) -> str:
        """The text of the model since the last step."""
        return self._said.getvalue()

    def append_text(self, text: str) -> None:
        """Add a piece of the model's text."""
        if text:
            self._said.write(text)
            if self._texts and len(self._texts[-1]) < PIECE:
                self._texts[-1] += text
            else:
                self._texts.append(text)
            self._news.set()

    def poll(self) -> None:
        """The turn may have been asked to stop: write, which returns that."""
        self._news.set()

    async def run(self) -> None:
        """Store text until the recorder is closed. Not to be cancelled: the result of a write in flight would
        be unknown."""
        try:
            while not self._closed.is_set():
                await self._wait(self._news, RENEWAL)
                self._news.clear()
                if not self._closed.is_set():
                    await self._wait(self._closed, await self._write_what_was_said())
        except Exception as error:
            # A write that waited behind the end of the turn has lost nothing.
            if not self._closed.is_set():
                self._on_loss(error)

    def close(self) -> None:
        """End `run`."""
        self._closed.set()
        self._news.set()

    async def record(self, **step: Any) -> TurnWritten:
        """Store a step: fields of AdvanceTurn. Raises TurnLost, and NotStored after PATIENCE.

        A write goes on when its caller is cancelled; the next one waits for it.
        """
        return await run_detached(self._write(step))

    async def _write_what_was_said(self) -> float:
        """Store it, and return how long to wait before the next time, in seconds: longer where writing takes
        long, so that a thousand turns leave time for the models that they listen to."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        await self._write({})
        return max(PAUSE, WRITING_TO_PAUSE * (loop.time() - began))

    async def _write(self, step: dict[str, Any]) -> TurnWritten:
        async with self._writing:
            texts, self._texts = self._texts, []
            command = AdvanceTurn(
                *(self._key, self._turn_id, self._turns.instance, self._beat),
                texts=tuple(msgspec.json.encode(text).decode()[1:-1] for text in texts),
                **step,
            )
            try:
                written = await retry_until_available(
                    lambda: self._turns.advance_turn(command), PATIENCE, f"turn {self._turn_id}"
                )
            except AgentRuntimeError:
                # It was not stored: it belongs to the text at the end of the turn.
                self._texts[:0] = texts
                raise
            self._beat = written.beat
            if step:
                self._said = io.StringIO()
            if command.ending is not None:
                self.ended = written.turn
                self.close()
        if written.stop_requested and self.ended is None:
            self._on_stop()
        return written

    async def _wait(self, event: asyncio.Event, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
