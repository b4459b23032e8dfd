"""Finds the turns that run although nobody runs them any more.

An instance that has died is seen at once: its connections are gone. One that hangs keeps them, and its
turns are lost when their beat has stood still for as long as a lease. Of its own turns an instance knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from msgspec import Struct

from runtime.db.database import Database
from runtime.store.records import SessionKey

# How long an instance has a turn without a sign of life, in seconds, by the clock of the one who looks.
LEASE = 15.0
# After the database was away, so many seconds are left to the other instances to come back to it as well.
RETURN = 10.0
# How many turns that run are read at a time.
PAGE = 500


class OrphanedTurn(Struct, frozen=True):
    """A turn that is to be interrupted, unless it gives a sign of life after `beat`."""

    key: SessionKey
    turn_id: str
    beat: int


class OrphanedTurns:
    """Remembers when each turn was first seen at its beat.

    `runs_here` says of a session whether this instance runs its turn, or is about to.
    """

    def __init__(self, database: Database, runs_here: Callable[[SessionKey], bool]) -> None:
        self._database = database
        self._runs_here = runs_here
        self._seen: dict[OrphanedTurn, float] = {}

    async def find(self, session_db_id: int, key: SessionKey) -> tuple[OrphanedTurn | None, bool]:
        """The turn of a session, where its process has died; and whether one runs at all."""
        for row in await self._database.fetch("list_turns", session_db_id, 1):
            if row["status"] == "running":
                lives = await self._lives(key, row["instance"], {})
                return None if lives else OrphanedTurn(key, row["turn_id"], row["beat"]), True
        return None, False

    async def find_all(self) -> list[OrphanedTurn]:
        """Those of all sessions; to be asked regularly, for only what is seen twice stands still."""
        now = asyncio.get_running_loop().time()
        asked: dict[str, bool] = {}
        seen: dict[OrphanedTurn, float] = {}
        async for turn, instance in self._running():
            # A dead one's has been silent for long enough.
            lives = await self._lives(turn.key, instance, asked)
            seen[turn] = self._seen.get(turn, now) if lives else now - LEASE
        self._seen = seen
        return [turn for turn, since in seen.items() if now - since >= LEASE]

    async def _running(self) -> AsyncIterator[tuple[OrphanedTurn, str]]:
        after = 0
        while rows := await self._database.fetch("list_running_turns", after, PAGE):
            for row in rows:
                after = row["id"]
                key = SessionKey(row["owner"], row["session_id"])
                yield OrphanedTurn(key, row["turn_id"], row["beat"]), row["instance"]

    async def _lives(self, key: SessionKey, instance: str, asked: dict[str, bool]) -> bool:
        """Whether somebody runs the turn of a session. `asked` are the instances that were looked for."""
        if instance == self._database.instance:
            return self._runs_here(key)
        if instance not in asked:
            found = await self._database.fetch("find_instance", instance)
            asked[instance] = bool(found) or self._database.was_lost(RETURN)
        return asked[instance]
