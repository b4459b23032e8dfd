"""A batch while it is planned: its sessions and keys as the requests decided so far leave them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from operator import attrgetter

from msgspec import Struct

from runtime.errors import SessionNotFound, VersionMismatch
from runtime.store.changes import Change, SessionChange
from runtime.store.records import (
    ApprovalRow,
    Details,
    Head,
    ImportMark,
    JsonText,
    MessageRow,
    SessionKey,
    TurnPiece,
    TurnRow,
)
from runtime.store.write.commands import IdempotencyKey, Request
from runtime.store.write.erasing import Portion
from runtime.store.write.planned_session import PlannedSession
from runtime.store.write.planned_turn import PlannedTurn
from runtime.store.write.statements import Rows

# How many idempotency keys one transaction forgets, and of how many turns the events.
FORGET_LIMIT = 1000
FORGET_TURNS = 100


class StoredReply(Struct, frozen=True):
    """What a request under an idempotency key was answered with."""

    fingerprint: str
    reply: JsonText


class TailMessage(Struct, frozen=True):
    """A message near the end of a history, as far as it says which calls are answered."""

    seq: int
    role: str
    tool_call_id: JsonText | None
    tool_calls: JsonText | None


@dataclass
class PlanInput:
    """What was read before the batch: the heads, and what its commands name beside them.

    `histories` holds the first messages of sessions whose history is to be replaced, by session db id;
    `cuts` the count and the tokens of the messages after (session db id, seq), where they are few or were
    measured; `new_ids` enough unused ids for the sessions that the batch may make. By session db id, too:
    `turns` are the last ones, `unfinished` what those that may be interrupted said that no message holds,
    `open_ends` where the histories end in calls of tools; `cut_at_once` is how many messages a cut may erase
    in this very transaction. `small_sessions` are erased in it if they are to go; `portions` are what is to
    be erased of what earlier ones left. `imports` are the sessions that were imported, by session db id.
    """

    heads: dict[SessionKey, Head] = field(default_factory=dict)
    details: dict[int, Details] = field(default_factory=dict)
    approvals: dict[tuple[int, str], ApprovalRow] = field(default_factory=dict)
    replies: dict[tuple[str, str], StoredReply] = field(default_factory=dict)
    histories: dict[int, list[MessageRow]] = field(default_factory=dict)
    cuts: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    new_ids: list[int] = field(default_factory=list)
    turns: dict[int, TurnRow] = field(default_factory=dict)
    unfinished: dict[int, JsonText] = field(default_factory=dict)
    open_ends: dict[int, list[TailMessage]] = field(default_factory=dict)
    cut_at_once: dict[int, int] = field(default_factory=dict)
    small_sessions: set[int] = field(default_factory=set)
    portions: list[Portion] = field(default_factory=list)
    imports: dict[int, ImportMark] = field(default_factory=dict)

    def open_end(self, session_db_id: int) -> list[TailMessage | MessageRow]:
        """The stored messages that may be the last of a session, oldest first: its end as it stands, and
        what commands in the batch may make its end."""
        ends = [*self.open_ends.get(session_db_id, ()), *self.histories.get(session_db_id, ())]
        return sorted(ends, key=lambda message: message.seq)


class Batch:
    """The sessions of a batch, and the keys, as the requests decided so far leave them."""

    def __init__(self, known: PlanInput) -> None:
        self.known = known
        self.sessions: dict[SessionKey, PlannedSession] = {}
        self.replies = dict(known.replies)
        self.new_replies: list[tuple[object, ...]] = []
        self.erased: dict[SessionKey, Head] = {}
        self.released_at: dict[int, datetime] = {}
        self.portions: list[Portion] = []
        self.new_ids = iter(known.new_ids)
        self.forget_before: datetime | None = None
        self.forget_events_before: datetime | None = None

    def remember(self, request: Request, key: IdempotencyKey, reply: StoredReply) -> None:
        """Keep a reply, for this batch and for good (W12)."""
        owner = request.key.owner
        self.replies[owner, key.key] = reply
        self.new_replies.append((owner, key.key, reply.fingerprint, reply.reply, request.at))

    def find(self, key: SessionKey) -> PlannedSession | None:
        session = self.sessions.get(key)
        if session is None and key not in self.erased and (head := self.known.heads.get(key)) is not None:
            session = PlannedSession(head, self.known.details.get(head.id), base=head)
            session.cut_at_once = self.known.cut_at_once.get(head.id, 0)
            self.sessions[key] = session
        return session

    def get(self, request: Request) -> PlannedSession:
        """The live session that a request is about, at the version that it expects."""
        session = self.find(request.key)
        if session is None or session.deleted_at is not None:
            raise SessionNotFound(request.key.session_id, deleted=session is not None)
        check_version(request, session.version)
        return session

    def add(self, request: Request, details: Details) -> PlannedSession:
        """A new session at version 0: the change that makes it raises that to 1."""
        head = Head(next(self.new_ids), request.key, 0, 0, 0, 0, request.at, None, 0, 0, 0, 0, None)
        session = self.sessions[request.key] = PlannedSession(head, details, base=None)
        return session

    def erase(self, session: PlannedSession, at: datetime) -> None:
        """Let a session be gone for good; one that is large leaves its rows to be erased in portions."""
        del self.sessions[session.key]
        if session.base is not None:
            self.erased[session.key] = session.base
            if session.id not in self.known.small_sessions:
                self.released_at[session.id] = at

    def erase_portions(self) -> list[Portion]:
        """Erase what was measured for it; once, if it is asked for twice."""
        portions = [] if self.portions else self.known.portions
        self.portions += portions
        for portion in portions:
            if portion.head is not None and (session := self.find(portion.head.key)) is not None:
                session.shorten_cut(portion)
        return portions

    def approval(self, session: PlannedSession, call_id: str) -> ApprovalRow | None:
        stored = self.known.approvals.get((session.id, call_id))
        if stored is not None and call_id not in session.stored_approvals:
            session.stored_approvals[call_id] = session.approvals[call_id] = stored
        return session.approvals.get(call_id)

    def import_mark(self, session: PlannedSession) -> ImportMark | None:
        """Where a session was imported from; None for one that was made here."""
        stored = self.known.imports.get(session.id)
        if stored is not None and session.stored_import is None:
            session.stored_import = session.import_mark = stored
        return session.import_mark

    def turn(self, session: PlannedSession) -> PlannedTurn | None:
        """The last turn of a session."""
        row = self.known.turns.get(session.id)
        if row is not None and not session.turns:
            session.turns.append(PlannedTurn(session.id, row, stored=row))
        return session.turns[-1] if session.turns else None

    def rows(self) -> Rows:
        rows: Rows = defaultdict(list)
        for head in self.erased.values():
            if head.id in self.released_at:
                rows["release_session"].append((head.id, self.released_at[head.id]))
            else:
                rows["delete_session"].append((head.id,))
        # In the order of their ids: two instances never wait for each other's heads in a circle.
        for session in sorted(self.sessions.values(), key=attrgetter("id")):
            session.write(rows)
        rows["insert_idempotency_key"] += sorted(self.new_replies)
        if self.forget_before is not None:
            rows["delete_old_idempotency_keys"].append((self.forget_before, FORGET_LIMIT))
            rows["delete_old_writers"].append((self.forget_before,))
        if self.forget_events_before is not None:
            rows["delete_old_turn_events"].append((self.forget_events_before, FORGET_TURNS))
            rows["forget_turn_events"].append((self.forget_events_before, FORGET_TURNS))
        for portion in self.portions:
            portion.write(rows)
        return rows

    def changes(self) -> Iterator[SessionChange]:
        for key, head in self.erased.items():
            gone = frozenset[Change]({"deleted"})
            yield SessionChange(key, head, None, [], gone, [], head.id in self.released_at)
        for session in self.sessions.values():
            base, what = session.base, frozenset(session.changed)
            pieces = _pieces(session)
            head = session.head()
            if base is None or session.version != base.version or session.is_cut_changed or pieces:
                left = session.is_cut_changed and head.cut_through > 0
                yield SessionChange(session.key, base, head, session.added, what, pieces, left)


def _pieces(session: PlannedSession) -> list[TurnPiece] | None:
    # What came before an interruption was another instance's to tell: it may not have been heard here.
    if any(turn.interrupted for turn in session.turns):
        return None
    return [piece for turn in session.turns for piece in turn.pieces]


def check_version(request: Request, version: int) -> None:
    """Raise VersionMismatch where the request expects another version."""
    if request.if_match is not None and request.if_match != version:
        raise VersionMismatch(request.key.session_id, request.if_match, version)
