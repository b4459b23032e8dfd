"""The queue of pending writes: bounded, in order of arrival, each with a deadline."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence

from msgspec import Struct

from runtime.config import DEFAULTS
from runtime.errors import AgentRuntimeError, DeadlinePassed, Overloaded, Unconfirmed
from runtime.store.records import SessionKey
from runtime.store.write.commands import Request
from runtime.store.write.outcomes import Outcome

# The bounds of a batch, which keep its transaction short.
MAX_BATCH_COMMANDS, MAX_BATCH_BYTES = 2_000, 16 * 1024 * 1024
# The queue is bounded in commands too (W9).
MAX_PENDING_COMMANDS = 50_000


class WriteLimits(Struct, frozen=True):
    """The bound of the queue in bytes, and times in seconds."""

    max_pending_bytes: int = DEFAULTS.max_pending_bytes
    write_timeout: float = DEFAULTS.write_timeout
    flush_interval: float = DEFAULTS.flush_interval


class Pending:
    """A pending request. `future` is None if no caller waits for it.

    `deadline` is None for a buffered write, which was accepted before it is stored (W5).
    """

    __slots__ = ("abandoned", "committing", "deadline", "done", "future", "queued_at", "request", "size")

    def __init__(self, request: Request, size: int, deadline: float | None) -> None:
        self.request = request
        self.size = size
        self.deadline = deadline
        self.queued_at = time.monotonic()
        self.future: asyncio.Future[Outcome] | None = None
        self.committing = self.abandoned = self.done = False

    def resolve(self, result: Outcome | AgentRuntimeError) -> None:
        """Give the caller its result, unless it was cancelled (W10)."""
        if self.future is None or self.future.done():
            return
        if isinstance(result, AgentRuntimeError):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)

    def pass_deadline(self) -> None:
        """Fail a request whose deadline has passed (W8). If not yet sent to COMMIT, it will not be stored."""
        self.abandoned = True
        if self.committing:
            self.resolve(
                Unconfirmed("the database has not confirmed this write yet: it may be stored or not")
            )
        else:
            self.resolve(DeadlinePassed("not stored: the database did not take this write in time"))


class WriteQueue:
    """Pending requests in order of arrival. `due` is set when a batch should be taken."""

    def __init__(self, limits: WriteLimits) -> None:
        self.limits = limits
        self.due = asyncio.Event()
        self.in_flight: list[Pending] = []
        self.count = self.bytes = 0
        self._waiting: deque[Pending] = deque()
        self._waiting_bytes = 0
        self._deadlines: deque[Pending] = deque()
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._flush_timer: asyncio.TimerHandle | None = None
        self._accepted: dict[SessionKey, Pending] = {}
        self._last_accepted: Pending | None = None
        self._keys: dict[tuple[str, str], Pending] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def submit(self, request: Request) -> asyncio.Future[Outcome]:
        """Queue a request and return the future of its outcome. Raises Overloaded."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        pending = self._add(request, now, now + self.limits.write_timeout)
        pending.future = loop.create_future()
        self._deadlines.append(pending)
        if self._deadline_timer is None:
            self._watch_deadline(pending)
        self.due.set()
        return pending.future

    def accept(self, request: Request) -> None:
        """Queue a buffered write for the next flush (W5). Raises Overloaded."""
        loop = asyncio.get_running_loop()
        pending = self._add(request, loop.time(), None)
        self._accepted[request.key] = self._last_accepted = pending
        if len(self._waiting) >= MAX_BATCH_COMMANDS or self._waiting_bytes > MAX_BATCH_BYTES // 2:
            self.due.set()
        elif self._flush_timer is None:
            self._flush_timer = loop.call_later(self.limits.flush_interval, self.due.set)

    def _add(self, request: Request, now: float, deadline: float | None) -> Pending:
        size = request.size
        full = self.count >= MAX_PENDING_COMMANDS or self.bytes + size > self.limits.max_pending_bytes
        if full and self.count:  # W9
            raise Overloaded("too many writes are waiting already; try again later")
        if self._is_late(now):
            raise Overloaded("pending writes wait too long already; try again later")
        pending = Pending(request, size, deadline)
        self._waiting.append(pending)
        self._waiting_bytes += size
        self.count += 1
        self.bytes += size
        if request.idempotency is not None:
            self._keys[request.key.owner, request.idempotency.key] = pending
        return pending

    def _is_late(self, now: float) -> bool:
        """Whether the oldest request has waited for half of its time.

        Under overload new requests are refused then. Otherwise the queue would fill with requests that are
        about to pass their deadlines, and batches would be written for callers that have given up.
        """
        deadline = self._deadlines[0].deadline if self._deadlines else None
        half = self.limits.write_timeout / 2
        return deadline is not None and deadline - now < half

    def find_accepted(self, key: SessionKey | None) -> Pending | None:
        """The last buffered write to a session (to any, if None) that is not stored yet."""
        return self._last_accepted if key is None else self._accepted.get(key)

    def find_key(self, owner: str, idempotency_key: str) -> Pending | None:
        """The pending request with this idempotency key."""
        return self._keys.get((owner, idempotency_key))

    def take(self, seconds: float = 0.0) -> list[Pending]:
        """Take the next batch, oldest first; it is in flight until `forget`.

        A request whose deadline is within the `seconds` that a batch takes fails now (W8): otherwise the
        deadline would pass during the batch, and the batch would have to be written again without it.
        """
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        batch: list[Pending] = []
        late: list[Pending] = []
        size = 0
        soonest = asyncio.get_running_loop().time() + min(seconds, self.limits.write_timeout / 2)
        while self._waiting and len(batch) < MAX_BATCH_COMMANDS and size < MAX_BATCH_BYTES:
            pending = self._waiting.popleft()
            self._waiting_bytes -= pending.size
            if pending.deadline is not None and pending.deadline < soonest:
                late.append(pending)
            else:
                size += pending.size
                batch.append(pending)
        for pending in late:
            pending.pass_deadline()
        self.forget(late)
        if self._waiting:
            self.due.set()
        self.in_flight = batch
        return batch

    def forget(self, batch: Sequence[Pending]) -> None:
        """Remove these requests: they are stored or have failed."""
        for pending in batch:
            if not pending.done:
                pending.done = True
                self._forget(pending)
        # W9: a stored request is not kept in memory until its deadline.
        while self._deadlines and self._deadlines[0].done:
            self._deadlines.popleft()

    def _forget(self, pending: Pending) -> None:
        self.count -= 1
        self.bytes -= pending.size
        request = pending.request
        if self._accepted.get(request.key) is pending:
            del self._accepted[request.key]
        if self._last_accepted is pending:
            self._last_accepted = None
        if request.idempotency is not None:
            name = (request.key.owner, request.idempotency.key)
            if self._keys.get(name) is pending:
                del self._keys[name]

    def unfinished(self) -> list[Pending]:
        """The requests in flight and in the queue, oldest first."""
        return [pending for pending in (*self.in_flight, *self._waiting) if not pending.done]

    def lag(self) -> float:
        """The age of the oldest pending request, in seconds."""
        oldest = next((pending for pending in self.in_flight if not pending.done), None)
        if oldest is None and self._waiting:
            oldest = self._waiting[0]
        return 0.0 if oldest is None else time.monotonic() - oldest.queued_at

    def close(self) -> None:
        """Stop the timers."""
        for timer in (self._deadline_timer, self._flush_timer):
            if timer is not None:
                timer.cancel()

    def _watch_deadline(self, pending: Pending) -> None:
        assert pending.deadline is not None, "a buffered write has no deadline"
        loop = asyncio.get_running_loop()
        self._deadline_timer = loop.call_at(pending.deadline, self._pass_deadlines)

    def _pass_deadlines(self) -> None:
        """Fail overdue requests. All have the same timeout, so one timer for the oldest serves them all."""
        self._deadline_timer = None
        now = asyncio.get_running_loop().time()
        while self._deadlines:
            pending = self._deadlines[0]
            if pending.deadline is not None and pending.deadline > now:
                self._watch_deadline(pending)
                return
            self._deadlines.popleft()
            # W8: this ends the retries of a request whose caller was cancelled (W10), too.
            if not pending.done:
                pending.pass_deadline()
