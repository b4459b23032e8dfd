"""A real store on which the writes of turns can be held."""

from __future__ import annotations

import asyncio
from typing import Any

from runtime.store.store import Store
from runtime.store.write.outcomes import TurnWritten
from runtime.store.write.turn_commands import AdvanceTurn


class Gated:
    """A store, and its TurnStore, on which the writes of turns can be held and are kept in `commands`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.commands: list[AdvanceTurn] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self._news = asyncio.Condition()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store.turns if hasattr(self._store.turns, name) else self._store, name)

    @property
    def turns(self) -> Gated:
        return self

    async def advance_turn(self, command: AdvanceTurn) -> TurnWritten:
        async with self._news:
            self.commands.append(command)
            self._news.notify_all()
        await self.gate.wait()
        return await self._store.turns.advance_turn(command)

    async def wait_for_commands(self, number: int) -> None:
        async with self._news, asyncio.timeout(20):
            await self._news.wait_for(lambda: len(self.commands) >= number)

    @property
    def texts(self) -> list[tuple[str, ...]]:
        """The pieces of text in each write."""
        return [command.texts for command in self.commands]
