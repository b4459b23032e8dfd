"""Reads a session as it grows, for `Store.follow`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from runtime.models import ChangedEvent, MessageEvent
from runtime.store.changes import ALL_CHANGES, Notice
from runtime.store.read.reader import Reader
from runtime.store.records import Head

# The most messages that a follower reads at a time.
PAGE = 100
# Seconds between two reads of a session without a notice.
POLL_SECONDS = 15.0

Event = MessageEvent | ChangedEvent


class SessionFollower:
    """Reads a session as it grows: each message once and in order, and the other changes.

    `async for` yields the events one by one, until the session is deleted or the store closes.
    """

    def __init__(self, reader: Reader, head: Head, after: int) -> None:
        self.session_db_id = head.id
        self._reader = reader
        self._key = head.key
        self._cursor = after
        self._version = head.version
        self._changed_version = head.changed_version
        self._changes: set[str] = set()
        self._news = asyncio.Event()
        self._news.set()
        self._ended = False

    def notify(self, notice: Notice) -> None:
        """Note a change. After a missed notice anything may have changed."""
        if notice.version <= self._version and not notice.changed:
            return  # Only events of a turn.
        self._version = max(self._version, notice.version)
        if notice.changed:
            self._changes.update(
                notice.changed if notice.changed_before <= self._changed_version else ALL_CHANGES
            )
            self._changed_version = max(self._changed_version, notice.version)
        self._news.set()

    def poll(self) -> None:
        """Read the session: it may have changed."""
        self._news.set()

    def end(self) -> None:
        """End the stream."""
        self._ended = True
        self._news.set()

    async def events(self, timeout: float) -> list[Event] | None:
        """Return new events, waiting up to `timeout` seconds: empty after a timeout, None at the end.

        Raises DatabaseUnavailable; the next call resumes where this one failed.
        """
        while not self._ended:
            try:
                async with asyncio.timeout(timeout):
                    await self._news.wait()
            except TimeoutError:
                # A notification can be lost silently: read after a long wait.
                self.poll()
                return []
            self._news.clear()
            if not self._ended and (events := await self._read_on()):
                return events
        return None

    async def _read_on(self) -> list[Event]:
        try:
            return await self._read()
        except BaseException:
            # After a cancellation or an error the next call reads again.
            self.poll()
            raise

    async def _read(self) -> list[Event]:
        version = self._version
        head = await self._reader.find_head(self._key)
        # A session that was erased and created again has another id.
        if head is None or head.deleted_at is not None or head.id != self.session_db_id:
            self._changes = {"deleted"}
            self.end()
            return [self._take_changes()]
        if version > head.version:
            # The head is authoritative: a notice with a later version is not from this program. Later notices
            # were compared with that version, so read again.
            self._version, self._changed_version = head.version, head.changed_version
            self.poll()
        if head.changed_version > self._changed_version:
            self.notify(Notice(head.id, head.changed_version, head.version, frozenset(ALL_CHANGES)))
        events: list[Event] = []
        if self._cursor > head.last_seq:
            # Numbers are not reused: the reader's last message is from an erased session.
            self._cursor = 0
            events.append(ChangedEvent(head.version, ["reset"]))
        page = await self._reader.list_messages_of(head, self._cursor, PAGE)
        if page.end_seq is not None:
            self._cursor = page.end_seq
            events += [MessageEvent(seq, raw) for seq, raw in zip(page.seqs, page.encoded, strict=True)]
        if page.more:
            self._news.set()
        elif self._changes:
            events.append(self._take_changes())
        return events

    def _take_changes(self) -> ChangedEvent:
        event = ChangedEvent(self._version, sorted(self._changes))
        self._changes.clear()
        return event

    async def __aiter__(self) -> AsyncIterator[Event]:
        while (events := await self.events(POLL_SECONDS)) is not None:
            for event in events:
                yield event


class Following:
    """What `Store.follow` returns: an async context manager, and an async iterable of events.

    Each `async for` has a SessionFollower of its own; one `async with` is open at a time.
    """

    def __init__(self, open_follower: Callable[[], AbstractAsyncContextManager[SessionFollower]]) -> None:
        self._open_follower = open_follower
        self._context: AbstractAsyncContextManager[SessionFollower] | None = None

    async def __aenter__(self) -> SessionFollower:
        if self._context is not None:
            raise RuntimeError("this following is open already; call `follow` again for another")
        context = self._open_follower()
        follower = await context.__aenter__()
        self._context = context
        return follower

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        context, self._context = self._context, None
        if context is not None:
            await context.__aexit__(kind, error, trace)

    async def __aiter__(self) -> AsyncGenerator[Event, None]:
        async with self._open_follower() as follower:
            async for event in follower:
                yield event
