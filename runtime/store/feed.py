"""Wakes those who follow a session, on this instance and on the others.

Nothing is queued for a follower: it is told that there is something new and reads it when it is ready,
so one that is slow holds up nobody and costs no memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol, get_args

import msgspec

from runtime.models import ChangedEvent, MessageEvent, Seq
from runtime.store.batch import SessionChange
from runtime.store.commands import Change, SessionKey
from runtime.store.reader import Reader
from runtime.store.state import Head, TurnPiece

logger = logging.getLogger("agent_runtime.feed")

# How many messages a follower gets at a time.
PAGE = 100
# Postgres takes notifications of less than 8000 bytes.
MAX_NOTIFICATION = 7900

# Anything may have changed, but for the end of the session, which ends the stream.
ALL_CHANGES: tuple[Change, ...] = tuple(sorted({*get_args(Change)} - {"deleted"}))

CHANGES: frozenset[str] = frozenset(get_args(Change))

# What a notification says of a session: its db id, the version that had last changed anything but added
# messages before, its new version, and what changed in it.
Changed = tuple[Seq, Seq, Seq, list[str]]
_decode_notification = msgspec.json.Decoder(tuple[str, list[Changed] | None]).decode


class TurnListener(Protocol):
    """A subscriber to the turns of a session."""

    def on_change(self, what: Collection[str], pieces: Sequence[TurnPiece] | None) -> None:
        """Something has changed, and the turns came to this; None: that is to be read."""

    def end(self) -> None:
        """Nothing more is to be heard."""


class Feed:
    """The followers of this instance, by the db id of the session that they follow."""

    def __init__(self, reader: Reader, instance: str) -> None:
        self._reader = reader
        self._instance = instance
        self._followers: defaultdict[int, set[Follower]] = defaultdict(set)
        self._listeners: defaultdict[int, set[TurnListener]] = defaultdict(set)
        self._ended = False
        self._warned = False

    async def follow(self, key: SessionKey, after: int) -> Follower:
        """Follow a session from behind message `after`. Raises SessionNotFound."""
        head = await self._reader.get_head(key)
        follower = Follower(self._reader, head, after)
        self._followers[head.id].add(follower)
        if self._ended:
            follower.end()
        return follower

    def leave(self, follower: Follower) -> None:
        """Forget a follower."""
        followers = self._followers[follower.session_db_id]
        followers.discard(follower)
        if not followers:
            del self._followers[follower.session_db_id]

    def add_listener(self, session_db_id: int, listener: TurnListener) -> None:
        """Let it hear of the turns of a session from now on."""
        self._listeners[session_db_id].add(listener)
        if self._ended:
            listener.end()

    def remove_listener(self, session_db_id: int, listener: TurnListener) -> None:
        """Forget a listener."""
        listeners = self._listeners[session_db_id]
        listeners.discard(listener)
        if not listeners:
            del self._listeners[session_db_id]

    def publish(self, changes: Sequence[SessionChange]) -> None:
        """Tell of a batch that this instance committed."""
        if self._followers:
            self._tell(map(_changed, changes))
        for change in changes if self._listeners else ():
            for listener in self._listeners.get(_id_of(change), ()):
                listener.on_change(change.what, change.pieces)

    def on_change(self, notification: str) -> None:
        """Tell of a batch that another instance committed (R2). Anything else on the channel is ignored."""
        try:
            instance, changes = _decode_notification(notification)
        except (msgspec.DecodeError, RecursionError):
            self._warn()
            return
        if instance == self._instance:
            return
        if changes is None:
            self.catch_up()
            return
        changes = list(map(_with_known_names, changes))
        self._tell(changes)
        for session_db_id, _, _, what in changes:
            for listener in self._listeners.get(session_db_id, ()):
                listener.on_change(what, None)

    def _warn(self) -> None:
        """Log the first notification that no instance sent: others may be sent without end."""
        if not self._warned:
            logger.warning("ignoring notifications that are not from an instance of this program")
        self._warned = True

    def _tell(self, changes: Iterable[Changed]) -> None:
        for session_db_id, changed_before, version, what in changes:
            for follower in self._followers.get(session_db_id, ()):
                follower.wake(changed_before, version, what)

    def catch_up(self) -> None:
        """Let every follower look for itself: notifications may have been missed."""
        for followers in self._followers.values():
            for follower in followers:
                follower.poll()
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.on_change(ALL_CHANGES, None)

    def end(self) -> None:
        """End every stream, also those that are still to be opened: the store is closing."""
        self._ended = True
        for followers in self._followers.values():
            for follower in followers:
                follower.end()
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.end()


class Follower:
    """Reads a session as it grows: each message once and in order, and notes of all else."""

    def __init__(self, reader: Reader, head: Head, after: int) -> None:
        self.session_db_id = head.id
        self._reader = reader
        self._key = head.key
        self._cursor = after
        self._version = head.version
        self._told = head.changed_version
        self._what: set[str] = set()
        self._news = asyncio.Event()
        self._news.set()
        self._ended = False

    def wake(self, changed_before: int, version: int, what: Sequence[str]) -> None:
        """The session has changed. Where a change before this one was not told of, it may be anything."""
        if version <= self._version and not what:
            return  # no more than what a turn said
        self._version = max(self._version, version)
        if what:
            self._what.update(what if changed_before <= self._told else ALL_CHANGES)
            self._told = max(self._told, version)
        self._news.set()

    def poll(self) -> None:
        """The session may have changed: its head tells."""
        self._news.set()

    def end(self) -> None:
        """Nothing more is to be read."""
        self._ended = True
        self._news.set()

    async def events(self, timeout: float) -> list[MessageEvent | ChangedEvent] | None:
        """What is new, waiting for it up to `timeout` seconds: empty when nothing came, None at the end."""
        while not self._ended:
            try:
                async with asyncio.timeout(timeout):
                    await self._news.wait()
            except TimeoutError:
                # A notification may be lost without a trace: who waits long looks for itself.
                self.poll()
                return []
            self._news.clear()
            if not self._ended and (events := await self._read_on()):
                return events
        return None

    async def _read_on(self) -> list[MessageEvent | ChangedEvent]:
        try:
            return await self._read()
        except BaseException:
            # Cancelled, or refused by the database: the next call reads again.
            self.poll()
            raise

    async def _read(self) -> list[MessageEvent | ChangedEvent]:
        version = self._version
        head = await self._reader.find_head(self._key)
        # One that was erased and made anew is another session.
        if head is None or head.deleted_at is not None or head.id != self.session_db_id:
            return self._end_of_session()
        if version > head.version:
            # The head is what counts: a notification that goes beyond it is no instance's. What came while it
            # was believed was taken for known.
            self._version, self._told = head.version, head.changed_version
            self.poll()
        if head.changed_version > self._told:
            self.wake(head.changed_version, head.version, ALL_CHANGES)
        events: list[MessageEvent | ChangedEvent] = []
        if self._cursor > head.last_seq:
            # Numbers are not used twice: the message that the reader knows is of an erased session.
            self._cursor = 0
            events.append(ChangedEvent(head.version, ["reset"]))
        page = await self._reader.list_messages_of(head, self._cursor, PAGE)
        if page.end_seq is not None:
            self._cursor = page.end_seq
            events += [MessageEvent(seq, raw) for seq, raw in zip(page.seqs, page.encoded, strict=True)]
        if page.more:
            self._news.set()
        elif self._what:
            events.append(self._changed())
        return events

    def _changed(self) -> ChangedEvent:
        event = ChangedEvent(self._version, sorted(self._what))
        self._what.clear()
        return event

    def _end_of_session(self) -> list[MessageEvent | ChangedEvent]:
        self._what = {"deleted"}
        self.end()
        return [self._changed()]


def notification(instance: str, changes: Sequence[SessionChange]) -> str:
    """What the other instances are told of a batch: by whom, and what changed.

    Where that would be too long it says null instead: anything may have changed.
    """
    text = msgspec.json.encode((instance, list(map(_changed, changes)))).decode()
    return text if len(text) < MAX_NOTIFICATION else msgspec.json.encode((instance, None)).decode()


def _with_known_names(change: Changed) -> Changed:
    """The change, as anything at all where it has a name that only a newer version knows."""
    session_db_id, changed_before, version, what = change
    return change if CHANGES.issuperset(what) else (session_db_id, changed_before, version, [*ALL_CHANGES])


def _id_of(change: SessionChange) -> int:
    head = change.head or change.base
    assert head is not None, "only a session that was stored can be gone for good"
    return head.id


def _changed(change: SessionChange) -> Changed:
    before = 0 if change.base is None else change.base.changed_version
    if change.head is not None:
        return change.head.id, before, change.head.version, sorted(change.what)
    assert change.base is not None, "only a session that was stored can be gone for good"
    return change.base.id, before, change.base.version + 1, sorted(change.what)
