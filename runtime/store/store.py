"""Public facade of the store."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime

from runtime.config import Settings
from runtime.db.connect import open_database
from runtime.db.database import Database
from runtime.errors import DatabaseError
from runtime.metrics import Metrics
from runtime.models import utc_now
from runtime.store.batch import SessionChange
from runtime.store.cache import Cache
from runtime.store.commands import SessionKey
from runtime.store.eraser import Eraser
from runtime.store.feed import Feed
from runtime.store.loader import Loader
from runtime.store.orphaned_turns import OrphanedTurns
from runtime.store.queue import WriteLimits
from runtime.store.reader import Reader, shared_heads
from runtime.store.steady_clock import SteadyClock
from runtime.store.tokens import Tokens
from runtime.store.turn_reader import TurnReader
from runtime.store.turns import Turns
from runtime.store.writer import Writer

logger = logging.getLogger("agent_runtime.store")


# A database that answers a probe later than this, in seconds, is not ready.
PROBE_SECONDS = 2.0
# What is left of the time to close once the writer must have ended: half of it for a last rollback, half
# for the connections.
CLOSE_SECONDS = 2.0


def uuid7(at: datetime) -> str:
    """A UUID of version 7 (RFC 9562): 48 bits of milliseconds, then chance."""
    milliseconds = int(at.timestamp() * 1000) & (1 << 48) - 1
    chance = uuid.uuid4().int & (1 << 76) - 1
    high, low = chance >> 64, chance & (1 << 62) - 1
    return str(uuid.UUID(int=milliseconds << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low))


class Store(Turns):
    """Keeps conversations. Made by `open_store`; what it can be asked stands in Writes, Reads and Turns."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        metrics: Metrics,
        *,
        clock: Callable[[], datetime] = utc_now,
        make_id: Callable[[datetime], str] = uuid7,
    ) -> None:
        self.unstored = 0
        self.tokens = Tokens(database, clock)
        self._database = database
        self._durability = settings.durability
        self._events_kept = settings.turn_events_kept
        self._metrics = metrics
        self._clock = clock
        self._steady = SteadyClock(clock)
        self._make_id = make_id
        self._cache = Cache(settings.cache_bytes)
        self._reader = Reader(database, self._cache, metrics, clock, shared_heads(database))
        self._turn_reader = TurnReader(database, self._reader)
        self.runs_turn: Callable[[SessionKey], bool] = lambda key: True
        self._lost_turns = OrphanedTurns(database, lambda key: self.runs_turn(key))
        self._feed = Feed(self._reader, database.instance)
        self._writer = Writer(
            database,
            Loader(self._cache, sole_writer=database.sole_writer),
            self._committed,
            instance=database.instance,
            limits=WriteLimits(settings.max_pending_bytes, settings.write_timeout, settings.flush_interval),
            metrics=metrics,
            clock=clock,
        )
        self._eraser = Eraser(database, self._writer, clock)
        database.listen(self._feed.on_change, self._feed.catch_up)
        metrics.cache_bytes.set_function(lambda: self._cache.size)
        metrics.wal_bytes.set_function(database.wal_bytes)
        for state in ("idle", "busy"):
            usage = metrics.pool_connections.labels(state=state)
            usage.set_function(functools.partial(self._count_connections, state))

    def _count_connections(self, state: str) -> float:
        return self._database.pool_usage()[state]

    def _committed(self, changes: Sequence[SessionChange]) -> None:
        for change in changes:
            self._cache.apply(change)
        self._feed.publish(changes)
        self._eraser.note(changes)

    async def check_health(self) -> dict[str, str]:
        """What the store needs, each with "ok" or what is wrong with it."""
        # Opening made sure of the schema, and refuses a database that it does not know.
        return {
            "database": await self._check_database(),
            "migrations": "ok",
            "writer": await self._writer.check_health(),
        }

    async def _check_database(self) -> str:
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await self._database.fetch("ping")
        except DatabaseError as error:
            return str(error)
        except TimeoutError:
            return f"no answer within {PROBE_SECONDS:g} s"
        return self._database.fault() or "ok"

    def end_streams(self) -> None:
        """End every stream, and every wait for rows to be erased: the server is stopping."""
        self._feed.end()
        self._eraser.release()

    async def close(self, timeout: float) -> int:
        """Store what waits, for up to `timeout` seconds, and close; return how many were lost (W11)."""
        started = time.monotonic()
        self.end_streams()
        await self._eraser.close()
        reserve = min(CLOSE_SECONDS, timeout / 2)
        self.unstored = await self._writer.close(timeout - reserve)
        with contextlib.suppress(DatabaseError):
            await self._database.close(reserve / 2)
        seconds = time.monotonic() - started
        self._metrics.shutdown_seconds.set(seconds)
        logger.info("stored %d writes in all; closed in %.2f s", self._writer.stored, seconds)
        if self.unstored:
            logger.error(
                "%d writes could not be stored, or were not confirmed, before the shutdown timeout",
                self.unstored,
            )
        return self.unstored


@contextlib.asynccontextmanager
async def open_store(
    url: str | None = None,
    settings: Settings | None = None,
    metrics: Metrics | None = None,
    *,
    clock: Callable[[], datetime] = utc_now,
) -> AsyncIterator[Store]:
    """Open the store at `url`, or else at the one of the settings, and close it at the end.

    Raises StartupError.
    """
    settings = settings or Settings()
    database = await open_database(
        url or settings.db_url,
        migrate=settings.migrate,
        pool_min=settings.pool_min,
        pool_max=settings.pool_max,
        pool_timeout=settings.pool_timeout,
        command_timeout=settings.command_timeout,
        slow_query_ms=settings.slow_query_ms,
    )
    store = Store(database, settings, metrics or Metrics(), clock=clock)
    try:
        yield store
    finally:
        await asyncio.shield(store.close(settings.shutdown_timeout))
