"""Committed changes, as the cache, followers and other instances get them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self, get_args

import msgspec
from msgspec import Struct

from runtime.models import Seq
from runtime.store.records import Head, MessageRow, SessionKey, TurnPiece

# Postgres takes notifications of less than 8000 bytes.
MAX_NOTIFICATION = 7900

# What changed in a session, other than added messages.
Change = Literal["agent", "approvals", "context", "deleted", "messages", "session", "turns"]
CHANGES: frozenset[str] = frozenset(get_args(Change))
# Anything may have changed. `deleted` is left out: it ends the stream of a follower.
ALL_CHANGES: tuple[str, ...] = tuple(sorted(CHANGES - {"deleted"}))

# A change in a notification: session db id, `changed_version` before it, new version, names of what changed.
_Encoded = tuple[Seq, Seq, Seq, list[str]]
_decode = msgspec.json.Decoder(tuple[str, list[_Encoded] | None]).decode


class CommittedChange(Struct, frozen=True):
    """The changes that a batch made to one session.

    `head` is None if the session was erased. `added` are its new messages; `changed` names everything else
    that changed. `pieces` are the new events of its turns, or None if they must be read from the database;
    events alone do not raise the version. `leaves_rows` is true if rows are left to erase.
    """

    key: SessionKey
    base: Head | None
    head: Head | None
    added: list[MessageRow]
    changed: frozenset[Change]
    pieces: list[TurnPiece] | None
    leaves_rows: bool = False

    @property
    def added_range(self) -> tuple[int, int, int] | None:
        """The messages that were added, for the search: the session's db id, the number before, the last.

        All of those of a new session: a fork has copies that no batch had in memory.
        """
        if self.head is None or not (self.added or (self.base is None and self.head.last_seq)):
            return None
        if self.base is None:
            return self.head.id, 0, self.head.last_seq
        return self.head.id, self.added[0].seq - 1, self.added[-1].seq

    @property
    def notice(self) -> Notice:
        """The change as followers get it."""
        head = self.head or self.base
        assert head is not None, "only a stored session can be erased"
        return Notice(
            session_db_id=head.id,
            changed_before=0 if self.base is None else self.base.changed_version,
            version=head.version if self.head is not None else head.version + 1,
            changed=self.changed,
            pieces=self.pieces,
        )


class Notice(Struct, frozen=True):
    """A change of a session as its followers get it.

    `changed_before` is the last version before this one that changed anything other than by adding messages.
    `pieces` is None if the events of its turns must be read from the database.
    """

    session_db_id: int
    changed_before: int
    version: int
    changed: frozenset[str]
    pieces: list[TurnPiece] | None = None

    @classmethod
    def decoded(cls, session_db_id: int, changed_before: int, version: int, changed: Sequence[str]) -> Self:
        """A notice from another instance. Names of a newer version of the program count as any change."""
        names = changed if CHANGES.issuperset(changed) else ALL_CHANGES
        return cls(session_db_id, changed_before, version, frozenset(names))


def encode_notification(instance: str, changes: Sequence[CommittedChange]) -> str:
    """The text of NOTIFY for a batch of `instance`, with null instead of the changes if they are too long."""
    notices = [change.notice for change in changes]
    encoded = [(n.session_db_id, n.changed_before, n.version, sorted(n.changed)) for n in notices]
    text = msgspec.json.encode((instance, encoded)).decode()
    return text if len(text) < MAX_NOTIFICATION else msgspec.json.encode((instance, None)).decode()


def encode_added(changes: Sequence[CommittedChange]) -> str | None:
    """The messages that a batch added, for the search: [[session_db_id, after_seq, through_seq], …]."""
    ranges = [added for change in changes if (added := change.added_range) is not None]
    return msgspec.json.encode(ranges).decode() if ranges else None


def decode_notification(text: str) -> tuple[str, list[Notice] | None]:
    """The instance that sent a notification, and the changes, or None if they were too long.

    Raises ValueError for a text that is no such notification.
    """
    try:
        instance, encoded = _decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError("not a notification of this program") from error
    return instance, None if encoded is None else [Notice.decoded(*change) for change in encoded]
