"""Finds orphaned turns: stored as running, but no instance runs them any more.

The death of an instance is noticed at once, because its connections are gone. An instance that hangs keeps
them; its turns are orphaned when their beat has not changed for a lease. An instance knows its own turns.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from msgspec import Struct

from runtime.db.database import Database
from runtime.store.records import SessionKey

# Seconds without a heartbeat after which a turn is orphaned, by the clock of the observer.
LEASE = 15.0
# Seconds that other instances have to reconnect after the database was unavailable.
RETURN = 10.0
# The most running turns that are read at a time.
PAGE = 500


class OrphanedTurn(Struct, frozen=True):
    """A turn to interrupt, unless its heartbeat has changed from `beat`."""

    key: SessionKey
    turn_id: str
    beat: int


class OrphanedTurns:
    """Remembers when each running turn was first seen at its beat.

    `runs_here` returns whether this instance runs, or is about to run, the turn of a session.
    """

    def __init__(self, database: Database, runs_here: Callable[[SessionKey], bool]) -> None:
        self._database = database
        self._runs_here = runs_here
        self._seen: dict[OrphanedTurn, float] = {}

    async def find(self, session_db_id: int, key: SessionKey) -> tuple[OrphanedTurn | None, bool]:
        """The running turn of a session if its process has died, and whether any turn is running."""
        for row in await self._database.fetch("list_turns", session_db_id, 1):
            if row["status"] == "running":
                lives = await self._lives(key, row["instance"], {})
                return None if lives else OrphanedTurn(key, row["turn_id"], row["beat"]), True
        return None, False

    async def find_all(self) -> list[OrphanedTurn]:
        """The orphaned turns of all sessions. To be called regularly, to compare heartbeats."""
        now = asyncio.get_running_loop().time()
        alive: dict[str, bool] = {}
        seen: dict[OrphanedTurn, float] = {}
        async for turn, instance in self._running():
            # The lease of a dead instance has passed.
            lives = await self._lives(turn.key, instance, alive)
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

    async def _lives(self, key: SessionKey, instance: str, alive: dict[str, bool]) -> bool:
        """Whether an instance runs the turn of a session. `alive` has the instances that were looked up."""
        if instance == self._database.instance:
            return self._runs_here(key)
        if instance not in alive:
            found = await self._database.fetch("find_instance", instance)
            alive[instance] = bool(found) or self._database.was_lost(RETURN)
        return alive[instance]
