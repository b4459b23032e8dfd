"""Subscriptions: notices of committed changes, from this instance and from others.

Notices are not queued: a subscriber notes that something has changed and reads it when it is ready. A slow
subscriber delays no other and needs no memory.
"""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from runtime.store.changes import CommittedChange, Notice, decode_notification

logger = logging.getLogger("agent_runtime.subscriptions")


class Subscriber(Protocol):
    """Receives the changes of one session. Its methods return at once."""

    def notify(self, notice: Notice) -> None:
        """The session has changed."""

    def poll(self) -> None:
        """The session may have changed: notices may be missing."""

    def end(self) -> None:
        """No more notices will come: the store is closing."""


class Subscriptions:
    """The subscribers of this instance, by the db id of their session.

    `on_deleted` is called with the db id of each session that another instance deletes.
    """

    def __init__(self, instance: str, on_deleted: Callable[[int], None]) -> None:
        self._instance = instance
        self._on_deleted = on_deleted
        self._subscribers: defaultdict[int, set[Subscriber]] = defaultdict(set)
        self._ended = False
        self._warned = False

    @contextlib.contextmanager
    def subscribed(self, session_db_id: int, subscriber: Subscriber) -> Iterator[None]:
        """Notify a subscriber of the changes of a session inside the `with` block."""
        subscribers = self._subscribers[session_db_id]
        subscribers.add(subscriber)
        if self._ended:
            subscriber.end()
        try:
            yield
        finally:
            subscribers.discard(subscriber)
            # A new set may have replaced it since.
            if not subscribers and self._subscribers.get(session_db_id) is subscribers:
                del self._subscribers[session_db_id]

    def publish(self, changes: Sequence[CommittedChange]) -> None:
        """Notify subscribers of a batch that this instance committed."""
        if self._subscribers:
            self._notify([change.notice for change in changes])

    def receive(self, notification: str) -> None:
        """Notify subscribers of a batch that another instance committed (R2). Ignores other texts."""
        try:
            instance, notices = decode_notification(notification)
        except ValueError:
            # Logged once: the number of foreign notifications is not bounded.
            if not self._warned:
                logger.warning("ignoring notifications that are not from an instance of this program")
            self._warned = True
            return
        if instance == self._instance:
            return
        if notices is None:
            self.poll()
        else:
            for notice in notices:
                if "deleted" in notice.changed:
                    self._on_deleted(notice.session_db_id)
            self._notify(notices)

    def _notify(self, notices: Sequence[Notice]) -> None:
        for notice in notices:
            for subscriber in self._subscribers.get(notice.session_db_id, ()):
                subscriber.notify(notice)

    def poll(self) -> None:
        """Make every subscriber read: notifications may have been missed."""
        for subscriber in self._all():
            subscriber.poll()

    def end(self) -> None:
        """End all subscriptions, present and future: the store is closing."""
        self._ended = True
        for subscriber in self._all():
            subscriber.end()

    def _all(self) -> list[Subscriber]:
        return [subscriber for group in self._subscribers.values() for subscriber in group]


class TurnWatch:
    """Calls `on_change` when a stop of a turn of the session may have been requested."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change

    def notify(self, notice: Notice) -> None:
        if "turns" in notice.changed or "deleted" in notice.changed:
            self._on_change()

    def poll(self) -> None:
        self._on_change()

    def end(self) -> None:
        """Do nothing: the engine ends running turns."""
