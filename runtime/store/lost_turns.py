"""Finds the turns that run although nobody runs them any more.

An instance that has died is seen at once: its connections are gone. One that hangs keeps them, and its
turns are lost when their beat has stood still for as long as a lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from msgspec import Struct

from runtime.db.database import Database
from runtime.store.commands import SessionKey

# How long an instance has a turn without a sign of life, in seconds, by the clock of the one who looks.
LEASE = 15.0
# How many turns that run are read at a time.
PAGE = 500


class LostTurn(Struct, frozen=True):
    """A turn that is to be interrupted, unless it gives a sign of life after `beat`."""

    key: SessionKey
    turn_id: str
    beat: int


class LostTurns:
    """Remembers when each turn was first seen at its beat."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen: dict[LostTurn, float] = {}

    async def find(self, session_db_id: int, key: SessionKey) -> LostTurn | None:
        """The turn of a session, where its process has died."""
        for row in await self._database.fetch("list_turns", session_db_id, 1):
            if row["status"] == "running" and not await self._lives(row["instance"]):
                return LostTurn(key, row["turn_id"], row["beat"])
        return None

    async def find_all(self) -> list[LostTurn]:
        """Those of all sessions; to be asked regularly, for only what is seen twice stands still."""
        now = asyncio.get_running_loop().time()
        lives: dict[str, bool] = {}
        seen: dict[LostTurn, float] = {}
        async for turn, instance in self._running():
            if instance not in lives:
                lives[instance] = await self._lives(instance)
            # A dead one's has been silent for long enough.
            seen[turn] = self._seen.get(turn, now) if lives[instance] else now - LEASE
        self._seen = seen
        return [turn for turn, since in seen.items() if now - since >= LEASE]

    async def _running(self) -> AsyncIterator[tuple[LostTurn, str]]:
        after = 0
        while rows := await self._database.fetch("list_running_turns", after, PAGE):
            for row in rows:
                after = row["id"]
                key = SessionKey(row["owner"], row["session_id"])
                yield LostTurn(key, row["turn_id"], row["beat"]), row["instance"]

    async def _lives(self, instance: str) -> bool:
        ours = instance == self._database.instance
        return ours or bool(await self._database.fetch("find_instance", instance))
