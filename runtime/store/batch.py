"""A batch while it is planned: its sessions and keys as the requests decided so far leave them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from msgspec import Struct

from runtime.errors import SessionNotFound, VersionMismatch
from runtime.store.commands import Change, IdempotencyKey, JsonText, Request, SessionKey
from runtime.store.state import ApprovalRow, Details, Head, MessageColumns
from runtime.store.working import Rows, WorkingSession

# How many idempotency keys one transaction forgets.
FORGET_LIMIT = 1000


class StoredReply(Struct, frozen=True):
    """What a request under an idempotency key was answered with."""

    fingerprint: str
    reply: JsonText


@dataclass
class Known:
    """What was read before the batch: the heads, and what its commands name beside them.

    `histories` holds the first messages of sessions whose history is to be replaced, by session db id;
    `cuts` the count and the tokens of the messages after (session db id, seq); `new_ids` enough unused
    ids for the sessions that the batch may make.
    """

    heads: dict[SessionKey, Head] = field(default_factory=dict)
    details: dict[int, Details] = field(default_factory=dict)
    approvals: dict[tuple[int, str], ApprovalRow] = field(default_factory=dict)
    replies: dict[tuple[str, str], StoredReply] = field(default_factory=dict)
    histories: dict[int, list[MessageColumns]] = field(default_factory=dict)
    cuts: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    new_ids: list[int] = field(default_factory=list)


class SessionChange(Struct, frozen=True):
    """What a batch did to a session: for the cache, and for those who follow it.

    `head` is None where the session is gone for good; `added` are its new messages as stored.
    """

    key: SessionKey
    base: Head | None
    head: Head | None
    added: list[MessageColumns]
    what: frozenset[Change]


class Batch:
    """The sessions of a batch, and the keys, as the requests decided so far leave them."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self.sessions: dict[SessionKey, WorkingSession] = {}
        self.replies = dict(known.replies)
        self.new_replies: list[tuple[object, ...]] = []
        self.erased: dict[SessionKey, Head] = {}
        self.new_ids = iter(known.new_ids)
        self.forget_before: datetime | None = None

    def remember(self, request: Request, key: IdempotencyKey, reply: StoredReply) -> None:
        """Keep a reply, for this batch and for good (W12)."""
        owner = request.key.owner
        self.replies[owner, key.key] = reply
        self.new_replies.append((owner, key.key, reply.fingerprint, reply.reply, request.at))

    def find(self, key: SessionKey) -> WorkingSession | None:
        session = self.sessions.get(key)
        if session is None and key not in self.erased and (head := self.known.heads.get(key)) is not None:
            session = WorkingSession(head, self.known.details.get(head.id), base=head)
            self.sessions[key] = session
        return session

    def get(self, request: Request) -> WorkingSession:
        """The live session that a request is about, at the version that it expects."""
        session = self.find(request.key)
        if session is None or session.deleted_at is not None:
            raise SessionNotFound(request.key.session_id, deleted=session is not None)
        check_version(request, session.version)
        return session

    def add(self, request: Request, details: Details) -> WorkingSession:
        """A new session at version 0: the change that makes it raises that to 1."""
        head = Head(next(self.new_ids), request.key, 0, 0, 0, 0, request.at, None, 0, 0, None)
        session = self.sessions[request.key] = WorkingSession(head, details, base=None)
        return session

    def erase(self, session: WorkingSession) -> None:
        del self.sessions[session.key]
        if session.base is not None:
            self.erased[session.key] = session.base

    def approval(self, session: WorkingSession, call_id: str) -> ApprovalRow | None:
        stored = self.known.approvals.get((session.id, call_id))
        if stored is not None and call_id not in session.stored_approvals:
            session.stored_approvals[call_id] = session.approvals[call_id] = stored
        return session.approvals.get(call_id)

    def rows(self) -> Rows:
        rows: Rows = defaultdict(list)
        rows["delete_session"] += [(head.id,) for head in self.erased.values()]
        for key in sorted(self.sessions):
            self.sessions[key].write(rows)
        rows["insert_idempotency_key"] += sorted(self.new_replies)
        if self.forget_before is not None:
            rows["delete_old_idempotency_keys"].append((self.forget_before, FORGET_LIMIT))
            rows["delete_old_writers"].append((self.forget_before,))
        return rows

    def changes(self) -> Iterator[SessionChange]:
        for key, head in self.erased.items():
            yield SessionChange(key, head, None, [], frozenset({"deleted"}))
        for session in self.sessions.values():
            base = session.base
            if base is None or session.version != base.version:
                yield SessionChange(
                    session.key, base, session.head(), session.added, frozenset(session.changed)
                )


def check_version(request: Request, version: int) -> None:
    """Raise VersionMismatch where the request expects another version."""
    if request.if_match is not None and request.if_match != version:
        raise VersionMismatch(request.key.session_id, request.if_match, version)
