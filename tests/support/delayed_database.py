"""A real database on which a statement can be held, for what happens at the worst moments."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

from runtime.config import Settings
from runtime.db.connect import open_database
from runtime.db.database import Database, Row
from runtime.metrics import Metrics
from runtime.store.core import Core
from runtime.store.store import Store

Moment = tuple[str, Literal["before", "after"]]


class Delay:
    """One statement that takes long: `reached` is set when it has come so far, `release` lets it go on."""

    def __init__(self) -> None:
        self.reached, self.release = asyncio.Event(), asyncio.Event()


class Delayed:
    """A database on which the next run of a statement can be held: before it, or before its answer comes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._delays: dict[Moment, Delay] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def delay(self, when: Literal["before", "after"], statement: str) -> Delay:
        """Hold the statement once."""
        delay = self._delays[statement, when] = Delay()
        return delay

    async def fetch(self, statement: str, *parameters: object) -> Sequence[Row]:
        await self._pass(statement, "before")
        rows = await self._database.fetch(statement, *parameters)
        await self._pass(statement, "after")
        return rows

    async def _pass(self, statement: str, when: Literal["before", "after"]) -> None:
        if delay := self._delays.pop((statement, when), None):
            delay.reached.set()
            await delay.release.wait()


@asynccontextmanager
async def delayed_store(url: str) -> AsyncIterator[tuple[Store, Delayed]]:
    database = Delayed(await open_database(url))
    store = Store(Core(database, Settings(), Metrics()))
    try:
        yield store, database
    finally:
        await store.close(1)
