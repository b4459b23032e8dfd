"""The writer: queue → batch → transaction → replies.

Callers submit requests and wait. One task takes all pending requests, plans them in memory, writes them in
one transaction, and wakes the callers after COMMIT. The next batch gathers while one commits, so batches grow
under load, and a single write does not wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

from runtime.db.database import Database, Transaction
from runtime.errors import (
    AgentRuntimeError,
    CommitUnknown,
    DatabaseConflict,
    DatabaseDamaged,
    DatabaseError,
    DatabaseUnavailable,
    DataRefused,
    NotStored,
    RefusedByDatabase,
    ShuttingDown,
    Unconfirmed,
)
from runtime.metrics import Metrics
from runtime.retry import growing_pauses
from runtime.store.changes import CommittedChange, encode_added, encode_notification
from runtime.store.messages import MANY_MESSAGES
from runtime.store.records import SessionKey
from runtime.store.write.batch import PlanInput
from runtime.store.write.commands import Request, messages_of
from runtime.store.write.loader import Loader
from runtime.store.write.outcomes import Outcome
from runtime.store.write.plan import Plan, plan
from runtime.store.write.queue import Pending, WriteLimits, WriteQueue
from runtime.store.write.statements import STATEMENTS

logger = logging.getLogger("agent_runtime.writer")

# Attempts to write a batch before it is split: it may be too large for the statement timeout.
WHOLE_TRIES = 5
# Seconds that the health check waits for a test write.
TRY_SECONDS = 2.0
# How often a batch is retried at once after a conflict with another instance.
CONFLICT_TRIES = 10
# After a conflict, lock heads for this many seconds: another conflict is likely.
LOCK_SECONDS = 1.0


class _BatchChangedError(Exception):
    """A deadline passed before COMMIT: the batch is written again without that request."""


class Writer:
    """Stores requests in batches. `clock` gives the time of day; `instance` is the name of this writer (W7).

    `on_commit` is called with the changes of a batch after COMMIT, before its callers resume. With
    `is_searched` the messages of each batch are queued for the search.
    """

    def __init__(
        self,
        database: Database,
        loader: Loader,
        on_commit: Callable[[Sequence[CommittedChange]], None],
        *,
        instance: str,
        limits: WriteLimits,
        metrics: Metrics,
        clock: Callable[[], datetime],
        is_searched: bool = True,
    ) -> None:
        self.queue = WriteQueue(limits)
        self.stored = 0
        # The duration of the last batch, in seconds.
        self.last_seconds = 0.0
        self._database = database
        self._loader = loader
        self._on_commit = on_commit
        self._instance = instance
        self._metrics = metrics
        self._clock = clock
        self._is_searched = is_searched
        self._batch_number = 0
        self._usual_seconds = 0.0
        self._lock_until = 0.0
        self._trouble = ""
        self._closing = False
        self._task = asyncio.create_task(self._run(), name="writer")
        metrics.pending_writes.set_function(lambda: self.queue.count)
        metrics.pending_bytes.set_function(lambda: self.queue.bytes)
        metrics.flush_lag_seconds.set_function(self.queue.lag)

    def submit(self, request: Request) -> Awaitable[Outcome]:
        """Queue a request; the awaitable returns its outcome after COMMIT.

        Raises a RequestError of the request, or NotStored.
        """
        self._check_open()
        return self.queue.submit(request)

    def accept(self, request: Request) -> None:
        """Queue a buffered write, to be stored within the flush interval (W5). Raises NotStored."""
        self._check_open()
        self.queue.accept(request)

    async def settle(self, key: SessionKey | None) -> None:
        """Wait until the buffered writes to a session (to any, if None) are stored (W6).

        Raises DatabaseUnavailable after the write timeout.
        """
        pending = self.queue.find_accepted(key)
        if pending is None:
            return
        if pending.future is None:
            pending.future = asyncio.get_running_loop().create_future()
            pending.future.add_done_callback(asyncio.Future.exception)  # marks it as retrieved
        self.queue.due.set()
        done, _ = await asyncio.wait([pending.future], timeout=self.queue.limits.write_timeout)
        if not done:
            raise DatabaseUnavailable("accepted writes are still waiting for the database; try again later")

    async def check_health(self) -> str:
        """Whether writes are accepted and stored: "ok", or what is wrong."""
        if not self._is_open():
            return "stopped"
        limits = self.queue.limits
        if self.queue.lag() > limits.flush_interval + limits.write_timeout:
            return f"the oldest write has waited for {self.queue.lag():.1f} s"
        if self._trouble and not self.queue.count:
            await self._try()
        return f"writes fail: {self._trouble}" if self._trouble else "ok"

    async def _try(self) -> None:
        """Find out by a test write whether writes succeed again: an instance that is not ready gets none."""
        try:
            async with asyncio.timeout(TRY_SECONDS), self._database.transaction() as tx:
                await tx.fetch("lock_batch", self._instance, self._clock())
            self._trouble = ""
        except (DatabaseError, TimeoutError) as error:
            self._trouble = str(error) or f"no answer within {TRY_SECONDS:g} s"

    def _is_open(self) -> bool:
        return not self._closing and not self._task.done()

    async def close(self, timeout: float) -> int:
        """Refuse new writes and store the pending ones; return how many could not be stored (W11)."""
        self._closing = True
        self.queue.due.set()
        await asyncio.wait([self._task], timeout=timeout)
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        left = self.queue.unfinished()
        for pending in left:
            if pending.committing:  # W7
                pending.resolve(Unconfirmed("the server stopped before the database confirmed this write"))
            else:
                pending.resolve(ShuttingDown("the server stopped before this was stored"))
        self.queue.close()
        return sum(not pending.abandoned for pending in left)

    def _check_open(self) -> None:
        if not self._is_open():
            raise ShuttingDown("the server is stopping and accepts no more writes")

    async def _run(self) -> None:
        while not self._closing or len(self.queue):
            await self.queue.due.wait()
            self.queue.due.clear()
            # Let the callers that the last batch woke submit more before the next batch is taken.
            await asyncio.sleep(0)
            if batch := self.queue.take(self._usual_seconds):
                self._metrics.flush_commands.observe(len(batch))
                await self._store(batch)
            if self._closing:
                self.queue.due.set()
        # The row of this writer is not needed any more: the next start has another name.
        with contextlib.suppress(DatabaseError):
            async with self._database.transaction() as tx:
                await tx.execute_many("delete_writer", [(self._instance,)])

    async def _store(self, batch: Sequence[Pending]) -> None:
        """Retry until the batch is stored or refused, or all of its deadlines have passed (W8)."""
        pauses, conflicts, failures = growing_pauses(), 0, 0
        while wanted := [pending for pending in batch if not pending.abandoned]:
            self.queue.forget([pending for pending in batch if pending.abandoned])
            try:
                planned = await self._write(wanted)
            except _BatchChangedError:
                continue
            except DatabaseUnavailable as error:
                self._count_failure("unavailable")
                self._trouble = str(error)
                failures += 1
                if failures >= WHOLE_TRIES and len(wanted) > 1:
                    return await self._split(wanted, error)
                logger.warning("a batch of %d writes is waiting for the database: %s", len(wanted), error)
                await asyncio.sleep(next(pauses))
            except Exception as error:
                conflicts += 1
                if not isinstance(error, DatabaseConflict) or conflicts > CONFLICT_TRIES:
                    return await self._split(wanted, error)
                self._count_failure("conflict")
                self._lock_until = time.monotonic() + LOCK_SECONDS
            else:
                self._trouble = ""
                self._finish(wanted, planned.outcomes)
                self._on_commit(planned.changes)
                return None
        self.queue.forget(batch)
        return None

    async def _split(self, batch: Sequence[Pending], error: Exception) -> None:
        """Halve a refused batch until the bad command is alone, and refuse that one (W8)."""
        if len(batch) == 1 or type(error) is DatabaseError:
            self._finish(batch, [self._refusal(pending, error) for pending in batch])
            return
        middle = len(batch) // 2
        await self._store(batch[:middle])
        await self._store(batch[middle:])

    def _refusal(self, pending: Pending, error: Exception) -> AgentRuntimeError:
        if isinstance(error, DataRefused):
            self._count_failure("refused")
            return RefusedByDatabase(f"the database refuses this: {error}")
        if isinstance(error, DatabaseDamaged):
            self._count_failure(error.code)
            return DatabaseDamaged(str(error))  # Each caller gets an error of its own.
        if isinstance(error, DatabaseError):
            self._count_failure(error.code)
            return NotStored(f"not stored: {error}")
        # A bug must not stop the writer: it is logged, and only this caller gets an error.
        self._count_failure("internal_error")
        logger.error("a %s failed", type(pending.request.command).__name__, exc_info=error)
        return AgentRuntimeError("the write failed inside the server; nothing was stored")

    async def _write(self, batch: Sequence[Pending]) -> Plan:
        """Write a batch in one transaction (W2)."""
        started = time.monotonic()
        self._batch_number += 1
        planned: Plan | None = None
        try:
            # A batch of buffered writes that no caller waits for need not survive a power failure (W5).
            durable = any(pending.future is not None for pending in batch)
            async with self._database.transaction(durable=durable) as tx:
                requests = [pending.request for pending in batch]
                stored = await self._loader.load(tx, requests, lock=time.monotonic() < self._lock_until)
                planned = await _plan(stored, requests)
                await self._write_rows(tx, planned)
                # From here on a passed deadline does not mean "not stored" any more.
                if any(pending.abandoned for pending in batch):
                    raise _BatchChangedError
                for pending in batch:
                    pending.committing = True
        except CommitUnknown:
            self._count_failure("commit_unknown")
            if planned is None or not await self._is_stored(self._batch_number):
                _leave_commit(batch)
                raise
        except Exception:
            _leave_commit(batch)
            raise
        self._count_flush(planned, time.monotonic() - started)
        return planned

    async def _write_rows(self, tx: Transaction, planned: Plan) -> None:
        if not any(planned.rows.values()):
            return
        for statement in STATEMENTS:
            if rows := planned.rows.get(statement):
                await tx.execute_many(statement, rows)
        await tx.execute_many("raise_batch", [(self._instance, self._batch_number, self._clock())])
        changes, text = planned.changes, None
        ranges = encode_added(changes) if self._is_searched else None
        if changes and not self._database.sole_writer:
            text = encode_notification(self._instance, changes)
        if ranges is not None or text is not None:
            await tx.execute_many("announce", [(self._instance, self._clock(), ranges, text)])

    async def _is_stored(self, number: int) -> bool:
        """Whether a batch is stored whose COMMIT got no answer (W7). Retries until the database answers."""
        for pause in growing_pauses():
            batch: int | None = None
            try:
                async with self._database.transaction() as tx:
                    (row,) = await tx.fetch("lock_batch", self._instance, self._clock())
                    batch = row["batch"]
            except Exception as error:
                self._trouble = str(error)
                logger.warning("whether a batch was committed is not known yet: %s", error)
            # Valid even if this transaction failed after the read: the lock was held.
            if batch is not None:
                return batch >= number
            await asyncio.sleep(pause)
        raise AssertionError("the pauses never end")

    def _finish(self, batch: Sequence[Pending], results: Sequence[Outcome | AgentRuntimeError]) -> None:
        self.queue.forget(batch)
        for pending, result in zip(batch, results, strict=True):
            if isinstance(result, Outcome):
                self.stored += 1
            elif pending.deadline is None:
                # No caller gets the error. Only its code is logged: the message may contain stored data.
                kind = type(pending.request.command).__name__
                logger.warning("an accepted %s was refused: %s", kind, result.code)
            pending.resolve(result)

    def _count_failure(self, reason: str) -> None:
        self._metrics.flush_failures.labels(reason=reason).inc()

    def _count_flush(self, planned: Plan, seconds: float) -> None:
        rows = sum(map(len, planned.rows.values()))
        self.last_seconds = seconds
        self._usual_seconds += (seconds - self._usual_seconds) / 4
        self._metrics.flush_seconds.observe(seconds)
        self._metrics.flush_rows.inc(rows)
        self._metrics.transactions.inc(1 if rows else 0)


async def _plan(stored: PlanInput, requests: Sequence[Request]) -> Plan:
    """Plan a batch, in a thread if it has very many messages, so that the event loop is not blocked."""
    if sum([len(messages_of(request.command)) for request in requests]) <= MANY_MESSAGES:
        return plan(stored, requests)
    return await asyncio.to_thread(plan, stored, requests)


def _leave_commit(batch: Sequence[Pending]) -> None:
    for pending in batch:
        pending.committing = False
