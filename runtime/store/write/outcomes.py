"""TODO."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

import msgspec
from msgspec import Struct

from runtime.models import AgentContext, Approval, Session, Turn
from runtime.store.messages import MANY_MESSAGES
from runtime.store.records import ImportMark, TurnPiece


class Outcome(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a write comes back with. `version` is the session's after it; `replayed` says that this
    answers a repeat of an earlier request, with the reply that the first one had."""

    session_id: str
    version: int
    replayed: bool = False


class Receipt(Struct, frozen=True, gc=False):
    """Where a message was stored."""

    seq: int
    timestamp: datetime


def encode_receipts(receipts: Sequence[Receipt]) -> Iterator[bytes]:
    """The JSON of very many receipts, in portions: what stands between the brackets of the list."""
    for start in range(0, len(receipts), MANY_MESSAGES):
        yield b"," * bool(start) + msgspec.json.encode(receipts[start : start + MANY_MESSAGES])[1:-1]


def put_receipts(encoded: bytes, portions: Iterable[bytes]) -> bytes:
    """The JSON of an object whose list of messages is empty, with the receipts put in."""
    # In the JSON of a text the quotes would be escaped.
    before, found, after = encoded.partition(b'"messages":[')
    return b"".join([before, found, *portions, after])


class SessionWritten(Outcome, frozen=True):
    """The session as the write left it; `created` where the write made it."""

    session: Session
    created: bool = False


class SessionDeleted(Outcome, frozen=True):
    """The session is deleted; False where the condition of a cleanup no longer held."""

    deleted: bool = True


class Appended(Outcome, frozen=True):
    """Where each message was stored."""

    messages: list[Receipt]
    last_seq: int


class Replaced(Outcome, frozen=True):
    """Where each message of the history stands, kept or new."""

    messages: list[Receipt]
    last_seq: int
    message_count: int


class Truncated(Outcome, frozen=True):
    """How many messages were taken away."""

    deleted: int
    last_seq: int


class Switched(Outcome, frozen=True):
    """Who held the conversation, and who holds it now."""

    from_agent: str
    to_agent: str
    switch_count: int


class ContextWritten(Outcome, frozen=True):
    """The agent context as the write left it."""

    context: AgentContext


class ApprovalWritten(Outcome, frozen=True):
    """The approval as the write left it."""

    approval: Approval


class ApprovalDeleted(Outcome, frozen=True):
    """The approval is gone."""


class Imported(Outcome, frozen=True):
    """Where an import of a session stands; without a `mark` the session was made here, and is kept as it is.

    `created` where the command made the session, `was_continued` where it found a part of it.
    """

    mark: ImportMark | None
    created: bool = False
    was_continued: bool = False


class Forgotten(Outcome, frozen=True):
    """Some of what was old is forgotten."""


class Erased(Outcome, frozen=True):
    """How many rows a portion erased, and the db ids of the sessions that have nothing left to erase."""

    rows: int
    finished: tuple[int, ...]


class Accepted(Struct, frozen=True):
    """A buffered write: it will be stored, together with others, within the flush interval (W5)."""

    session_id: str
    accepted: int
    replayed: bool = False


class TurnWritten(Outcome, frozen=True):
    """The turn as the write left it, the `n`-th of the session with this db id.

    `stop_requested`: its instance is to stop it; `beat` counts its signs of life; `beginning` are the first
    events of one that was started, for a follower that joins at once.
    """

    turn: Turn
    session_db_id: int
    n: int
    stop_requested: bool
    beat: int
    beginning: tuple[TurnPiece, ...] = ()
