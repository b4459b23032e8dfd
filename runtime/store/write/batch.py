"""A batch while it is planned: its sessions and keys after the requests planned so far."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from operator import attrgetter

from msgspec import Struct, structs

from runtime.errors import SessionNotFound, VersionMismatch
from runtime.store.changes import Change, CommittedChange
from runtime.store.labels import labels_of
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
from runtime.store.write.fork_commands import CopiedRows
from runtime.store.write.planned_session import PlannedSession
from runtime.store.write.planned_turn import PlannedTurn
from runtime.store.write.statements import Rows

# The most idempotency keys that one transaction deletes, and the most turns whose events it deletes.
FORGET_LIMIT = 1000
FORGET_TURNS = 100


class StoredReply(Struct, frozen=True):
    """The reply to a request under an idempotency key, and the request's fingerprint."""

    fingerprint: str
    reply: JsonText


class TailMessage(Struct, frozen=True):
    """The fields of a message near the end of a history that show which calls are answered."""

    seq: int
    role: str
    tool_call_id: JsonText | None
    tool_calls: JsonText | None


class ForkPoint(Struct, frozen=True):
    """Where a session is forked: what the transaction copies of it, and the agent at that point.

    The messages up to number `start` are in the hidden session with the id `session_db_id`.
    """

    source: int
    after: int | None
    start: int
    session_db_id: int | None
    message_count: int
    token_total: int
    agent: str
    last_switch: int
    switch_count: int


class UnlabelledSession(Struct, frozen=True):
    """A session of an earlier version that has no labels yet."""

    id: int
    owner: str
    created_at: datetime
    is_active: bool
    agent: str
    metadata: JsonText

    def write(self, rows: Rows) -> None:
        """Add the rows to write. Changes since the upgrade may have left labels of some members."""
        rows["erase_session_labels"].append((self.id, ""))
        labels = labels_of(self.agent, self.created_at, self.is_active, self.metadata)
        rows["insert_session_label"] += [(self.id, *label, self.owner) for label in labels]
        rows["delete_unlabelled_session"].append((self.id,))


@dataclass
class PlanInput:
    """The rows that the loader read for a batch. Those of a session are by its db id.

    `histories`: the first messages of sessions whose history is replaced.
    `cuts`: count and tokens of the messages after (session db id, seq), if they are few or measured.
    `new_ids`: unused ids, enough for the sessions that the batch may create.
    `turns`: the last turn of a session.
    `unfinished`: text of a turn that may be interrupted, which no message has yet.
    `open_ends`: the last messages of a history that may end in tool calls.
    `cut_at_once`: how many messages a cut may erase in this transaction.
    `small_sessions`: sessions that are erased in this transaction if they are deleted for good.
    `portions`: rows to erase that earlier batches left.
    `bare_sessions`: sessions that have no agent context of their own.
    `approval_places`: the sessions that have an approval for a call.
    `imports`: the origins of imported sessions.
    `forks`: the points of forks, by the session that is to be created.
    `contested`: forks that have to wait for another batch.
    `unlabelled`: sessions of an earlier version, to be given labels.
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
    bare_sessions: set[int] = field(default_factory=set)
    approval_places: dict[str, set[SessionKey]] = field(default_factory=dict)
    imports: dict[int, ImportMark] = field(default_factory=dict)
    forks: dict[SessionKey, ForkPoint] = field(default_factory=dict)
    contested: set[SessionKey] = field(default_factory=set)
    unlabelled: list[UnlabelledSession] = field(default_factory=list)

    def open_end(self, session_db_id: int) -> list[TailMessage | MessageRow]:
        """The stored messages that may be the last of a session, oldest first.

        They include those that a cut or a replacement in the batch may leave as the last.
        """
        ends = [*self.open_ends.get(session_db_id, ()), *self.histories.get(session_db_id, ())]
        return sorted(ends, key=lambda message: message.seq)


class Batch:
    """The sessions and idempotency keys of a batch after the requests planned so far."""

    def __init__(self, stored: PlanInput) -> None:
        self.stored = stored
        self.sessions: dict[SessionKey, PlannedSession] = {}
        self.replies = dict(stored.replies)
        self.new_replies: list[tuple[object, ...]] = []
        self.erased: dict[SessionKey, Head] = {}
        self.released_at: dict[int, datetime] = {}
        self.portions: list[Portion] = []
        self.index_rows: Rows = defaultdict(list)
        self.unlabelled: list[UnlabelledSession] = []
        # The rows of copies that are being made, which concern no session that anybody sees.
        self.copying: Rows = defaultdict(list)
        self.new_ids = iter(stored.new_ids)
        self.deleted_keys: list[tuple[object, ...]] = []
        self.forget_before: datetime | None = None
        self.forget_events_before: datetime | None = None

    def remember(self, request: Request, key: IdempotencyKey, reply: StoredReply) -> None:
        """Store a reply under its key, for the rest of the batch too (W12)."""
        owner = request.key.owner
        self.replies[owner, key.key] = reply
        self.new_replies.append((owner, key.key, reply.fingerprint, reply.reply, request.at))

    def find(self, key: SessionKey) -> PlannedSession | None:
        session = self.sessions.get(key)
        if session is None and key not in self.erased and (head := self.stored.heads.get(key)) is not None:
            session = PlannedSession(head, self.stored.details.get(head.id), base=head)
            session.cut_at_once = self.stored.cut_at_once.get(head.id, 0)
            session.is_bare = session.was_bare = head.id in self.stored.bare_sessions
            self.sessions[key] = session
        return session

    def get(self, request: Request) -> PlannedSession:
        """The session of a request. Raises SessionNotFound, VersionMismatch."""
        session = self.find(request.key)
        if session is None or session.deleted_at is not None:
            raise SessionNotFound(request.key.session_id, deleted=session is not None)
        check_version(request, session.version)
        return session

    def add(self, request: Request, details: Details) -> PlannedSession:
        """Add a new session at version 0; its first change raises that to 1."""
        head = Head(next(self.new_ids), request.key, 0, 0, 0, 0, request.at, None, 0, 0, 0, 0, None)
        session = self.sessions[request.key] = PlannedSession(head, details, base=None)
        return session

    def add_fork(
        self, request: Request, point: ForkPoint, details: Details, head: Head, copied: CopiedRows
    ) -> PlannedSession:
        """Add a new session that has the messages of another one."""
        id = next(self.new_ids) if point.session_db_id is None else point.session_db_id
        session = PlannedSession(structs.replace(head, id=id), details, base=None)
        session.copied = copied
        self.sessions[request.key] = session
        return session

    def erase(self, session: PlannedSession, at: datetime) -> None:
        """Delete a session for good. The rows of a large one are erased later, in portions."""
        del self.sessions[session.key]
        if session.base is not None:
            self.erased[session.key] = session.base
            if session.id not in self.stored.small_sessions:
                self.released_at[session.id] = at

    def erase_portions(self) -> list[Portion]:
        """Erase the measured portions; a second call in the batch erases nothing."""
        portions = [] if self.portions else self.stored.portions
        self.portions += portions
        for portion in portions:
            if portion.head is not None and (session := self.find(portion.head.key)) is not None:
                session.shorten_cut(portion)
        return portions

    def approval(self, session: PlannedSession, call_id: str) -> ApprovalRow | None:
        stored = self.stored.approvals.get((session.id, call_id))
        if stored is not None and call_id not in session.stored_approvals:
            session.stored_approvals[call_id] = session.approvals[call_id] = stored
        return session.approvals.get(call_id)

    def import_mark(self, session: PlannedSession) -> ImportMark | None:
        """Where a session was imported from; None for one that was made here."""
        stored = self.stored.imports.get(session.id)
        if stored is not None and session.stored_import is None:
            session.stored_import = session.import_mark = stored
        return session.import_mark

    def turn(self, session: PlannedSession) -> PlannedTurn | None:
        """The last turn of a session, if it has one."""
        row = self.stored.turns.get(session.id)
        if row is not None and not session.turns:
            session.turns.append(PlannedTurn(session.id, row, stored=row))
        return session.turns[-1] if session.turns else None

    def rows(self) -> Rows:
        rows: Rows = defaultdict(list)
        for head in self.erased.values():
            if head.id in self.released_at:
                rows["release_session"].append((head.id, self.released_at[head.id]))
                # At once: they are counted.
                rows["erase_session_labels"].append((head.id, ""))
            else:
                rows["delete_session"].append((head.id,))
        # In the order of their ids, so that two instances cannot deadlock on heads.
        for session in sorted(self.sessions.values(), key=attrgetter("id")):
            session.write(rows)
        rows["delete_idempotency_keys"] += self.deleted_keys
        rows["insert_idempotency_key"] += sorted(self.new_replies)
        if self.forget_before is not None:
            rows["delete_old_idempotency_keys"].append((self.forget_before, FORGET_LIMIT))
            rows["delete_old_writers"].append((self.forget_before,))
        if self.forget_events_before is not None:
            rows["delete_old_turn_events"].append((self.forget_events_before, FORGET_TURNS))
            rows["forget_turn_events"].append((self.forget_events_before, FORGET_TURNS))
        for portion in self.portions:
            portion.write(rows)
        for statement, parameters in (*self.index_rows.items(), *self.copying.items()):
            rows[statement] += parameters
        for unlabelled in self.unlabelled:
            unlabelled.write(rows)
        return rows

    def changes(self) -> Iterator[CommittedChange]:
        for key, head in self.erased.items():
            gone = frozenset[Change]({"deleted"})
            yield CommittedChange(key, head, None, [], gone, [], head.id in self.released_at)
        for session in self.sessions.values():
            base, changed = session.base, frozenset(session.changed)
            pieces: list[TurnPiece] | None = [piece for turn in session.turns for piece in turn.pieces]
            if any(turn.interrupted for turn in session.turns):
                # Another instance sent the events before the interruption: followers here may lack them.
                pieces = None
            head = session.head()
            if base is None or session.version != base.version or session.is_cut_changed or pieces:
                left = session.is_cut_changed and head.cut_through > 0
                yield CommittedChange(session.key, base, head, session.added, changed, pieces, left)


def check_version(request: Request, version: int) -> None:
    """Raise VersionMismatch if the request expects another version."""
    if request.if_match is not None and request.if_match != version:
        raise VersionMismatch(request.key.session_id, request.if_match, version)
