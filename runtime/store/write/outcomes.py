"""Outcomes: what a write returns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

import msgspec
from msgspec import Struct

from runtime.models import AgentContext, Approval, Session, Turn
from runtime.store.messages import MANY_MESSAGES
from runtime.store.records import ImportMark, TurnPiece


class Outcome(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The result of a write. `version` is the session's after it.

    `replayed` is true for the repeat of an earlier request, which has the reply to the first one.
    """

    session_id: str
    version: int
    replayed: bool = False


class Receipt(Struct, frozen=True, gc=False):
    """The sequence number and the time of a stored message."""

    seq: int
    timestamp: datetime


def encode_receipts(receipts: Sequence[Receipt]) -> Iterator[bytes]:
    """The JSON of very many receipts in portions, without the brackets of the list."""
    for start in range(0, len(receipts), MANY_MESSAGES):
        yield b"," * bool(start) + msgspec.json.encode(receipts[start : start + MANY_MESSAGES])[1:-1]


def put_receipts(encoded: bytes, portions: Iterable[bytes]) -> bytes:
    """Insert the receipts into the JSON of an object whose list of messages is empty."""
    # The first match is the field: in the JSON of a text the quotes are escaped.
    before, found, after = encoded.partition(b'"messages":[')
    return b"".join([before, found, *portions, after])


class SessionWritten(Outcome, frozen=True):
    """The session after the write. `created` is true if the write created it."""

    session: Session
    created: bool = False


class SessionDeleted(Outcome, frozen=True):
    """The session is deleted. `deleted` is false if the condition of a cleanup no longer held."""

    deleted: bool = True


class SessionErased(Outcome, frozen=True):
    """The session is deleted for good. `found` is false if there was none; `message_count` is what it had."""

    found: bool
    message_count: int = 0


class Appended(Outcome, frozen=True):
    """A receipt for each message."""

    messages: list[Receipt]
    last_seq: int


class Replaced(Outcome, frozen=True):
    """A receipt for each message of the history, kept or new."""

    messages: list[Receipt]
    last_seq: int
    message_count: int


class Truncated(Outcome, frozen=True):
    """The number of removed messages."""

    deleted: int
    last_seq: int


class Switched(Outcome, frozen=True):
    """The agents before and after the handover."""

    from_agent: str
    to_agent: str
    switch_count: int


class ContextWritten(Outcome, frozen=True):
    """The agent context after the write."""

    context: AgentContext


class ApprovalWritten(Outcome, frozen=True):
    """The approval after the write."""

    approval: Approval


class ApprovalDeleted(Outcome, frozen=True):
    """The approval is deleted."""


class Saved(Outcome, frozen=True):
    """A state is saved as it was given; `changed` is false where nothing had to be."""

    changed: bool = True


class Imported(Outcome, frozen=True):
    """Where an import of a session stands; without a `mark` the session was made here, and is kept as it is.

    `created` where the command made the session, `was_continued` where it found a part of it.
    """

    mark: ImportMark | None
    created: bool = False
    was_continued: bool = False


class Forgotten(Outcome, frozen=True):
    """Some of the old rows, or the named keys, are deleted."""


class Erased(Outcome, frozen=True):
    """The number of erased rows, and the db ids of the sessions that have nothing left to erase."""

    rows: int
    finished: tuple[int, ...]


class Indexed(Outcome, frozen=True):
    """The index of words is changed."""


class ForkBegun(Outcome, frozen=True):
    """The db id of a new hidden session."""

    session_db_id: int


class ForkContinued(Outcome, frozen=True):
    """A portion is copied, or a copy is abandoned."""


class Labelled(Outcome, frozen=True):
    """The number of sessions that were given labels."""

    sessions: int


class Accepted(Struct, frozen=True):
    """A buffered write of `accepted` messages, which will be stored within the flush interval (W5)."""

    session_id: str
    accepted: int
    replayed: bool = False


class TurnWritten(Outcome, frozen=True):
    """The turn after the write: the `n`-th of the session with this db id.

    `stop_requested` is true if its instance is to stop it. `beat` is its heartbeat. `beginning` are the first
    events of a new turn, for a follower that joins at once.
    """

    turn: Turn
    session_db_id: int
    n: int
    stop_requested: bool
    beat: int
    beginning: tuple[TurnPiece, ...] = ()
