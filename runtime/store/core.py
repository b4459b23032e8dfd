"""Assembles, checks and closes the parts of a store."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime

from runtime.config import Settings
from runtime.db.database import Database
from runtime.errors import DatabaseError
from runtime.metrics import Metrics
from runtime.models import utc_now
from runtime.store.cache import Cache
from runtime.store.changes import CommittedChange
from runtime.store.follow.subscriptions import Subscriptions
from runtime.store.read.reader import Reader, shared_heads
from runtime.store.read.session_lists import SessionLists
from runtime.store.records import SessionKey
from runtime.store.submission import Submitter
from runtime.store.validation import check_key
from runtime.store.write.cleanup import Cleanup
from runtime.store.write.eraser import Eraser
from runtime.store.write.indexer import Indexer
from runtime.store.write.labeller import Labeller
from runtime.store.write.loader import Loader
from runtime.store.write.queue import WriteLimits
from runtime.store.write.retention import Retention, RetentionPeriods
from runtime.store.write.writer import Writer

logger = logging.getLogger("agent_runtime.store")

# Seconds that a database has to answer a probe.
PROBE_SECONDS = 2.0
# Seconds of the closing time that are reserved: half for a last rollback, half for closing connections.
CLOSE_SECONDS = 2.0


def uuid7(at: datetime) -> str:
    """A UUID of version 7 (RFC 9562): 48 bits of milliseconds, then random bits."""
    milliseconds = int(at.timestamp() * 1000) & (1 << 48) - 1
    random = uuid.uuid4().int & (1 << 76) - 1
    high, low = random >> 64, random & (1 << 62) - 1
    return str(uuid.UUID(int=milliseconds << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low))


class Core:
    """The parts of a store. After each COMMIT it updates the cache and notifies followers."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        metrics: Metrics,
        *,
        clock: Callable[[], datetime] = utc_now,
        make_id: Callable[[datetime], str] = uuid7,
    ) -> None:
        self.database = database
        self.metrics = metrics
        self.clock = clock
        self.cache = Cache(settings.cache_bytes)
        self.reader = Reader(database, self.cache, metrics, clock, shared_heads(database))
        self.session_lists = SessionLists(database, self.reader)
        self.subscriptions = Subscriptions(database.instance, self.cache.drop_session)
        self.writer = Writer(
            database,
            Loader(self.cache, sole_writer=database.sole_writer),
            self._on_commit,
            instance=database.instance,
            limits=WriteLimits(settings.max_pending_bytes, settings.write_timeout, settings.flush_interval),
            metrics=metrics,
            clock=clock,
            is_searched=settings.search,
        )
        self.indexer = Indexer(database, self.writer, clock, metrics, is_on=settings.search)
        self.eraser = Eraser(database, self.writer, clock, self.indexer.note_removals)
        self.labeller = Labeller(database, self.writer, clock)
        self.cleanup = Cleanup(database, self.writer, self.eraser, clock, settings.turn_events_kept)
        periods = RetentionPeriods(settings.retain_idle_days, settings.retain_deleted_days)
        self.retention = Retention(database, self.cleanup, periods, metrics)
        self.submitter = Submitter(database, self.writer, self.reader, settings.durability, clock, make_id)
        database.listen(self.subscriptions.receive, self.subscriptions.poll)
        metrics.cache_bytes.set_function(lambda: self.cache.size)
        metrics.wal_bytes.set_function(database.wal_bytes)
        connections = metrics.pool_connections
        connections.labels(state="idle").set_function(lambda: database.pool_usage()["idle"])
        connections.labels(state="busy").set_function(lambda: database.pool_usage()["busy"])

    def _on_commit(self, changes: Sequence[CommittedChange]) -> None:
        for change in changes:
            self.cache.apply(change)
        self.subscriptions.publish(changes)
        self.eraser.note(changes)
        self.indexer.note(changes)

    async def settled_key(self, owner: str, session_id: str) -> SessionKey:
        """The key of a session, after its buffered writes are stored (W6). Raises InvalidInput."""
        key = SessionKey(owner, check_key(session_id, "$.session_id"))
        await self.writer.settle(key)
        return key

    async def check_health(self) -> dict[str, str]:
        """The state of each part that the store needs: "ok", or what is wrong."""
        return {
            "database": await self._check_database(),
            # Opening the database applied the migrations, or refused a newer schema.
            "migrations": "ok",
            "writer": await self.writer.check_health(),
        }

    async def _check_database(self) -> str:
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await self.database.fetch("ping")
        except DatabaseError as error:
            return str(error)
        except TimeoutError:
            return f"no answer within {PROBE_SECONDS:g} s"
        return self.database.fault() or "ok"

    def end_streams(self) -> None:
        """End all streams and all waits for the eraser: the server is stopping."""
        self.subscriptions.end()
        self.eraser.end_waits()

    async def close(self, timeout: float) -> int:
        """Store the pending writes within `timeout` seconds and close; return how many were lost (W11)."""
        started = time.monotonic()
        self.end_streams()
        await self.eraser.close()
        await self.indexer.close()
        await self.labeller.close()
        reserve = min(CLOSE_SECONDS, timeout / 2)
        unstored = await self.writer.close(timeout - reserve)
        with contextlib.suppress(DatabaseError):
            await self.database.close(reserve / 2)
        seconds = time.monotonic() - started
        self.metrics.shutdown_seconds.set(seconds)
        logger.info("stored %d writes in all; closed in %.2f s", self.writer.stored, seconds)
        if unstored:
            logger.error(
                "%d writes could not be stored, or were not confirmed, before the shutdown timeout", unstored
            )
        return unstored
