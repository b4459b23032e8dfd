"""Pages, heads and lists: from memory where that is sure to be right, else from the database."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from operator import itemgetter
from typing import Protocol

import msgspec

from runtime.db.database import Database, Row
from runtime.errors import InvalidInput, SessionNotFound
from runtime.metrics import Metrics
from runtime.models import (
    MAX_SEQ,
    AgentContext,
    AgentSwitch,
    Approval,
    ApprovalList,
    ApprovalStatus,
    History,
    Key,
    MessagePage,
    Role,
    Session,
    SessionPage,
    SessionStats,
    SwitchPage,
)
from runtime.store.cache import Cache, Encoded, Entry
from runtime.store.commands import SessionKey
from runtime.store.lookups import Lookup
from runtime.store.messages import encode_chat_message, encode_row
from runtime.store.rows import approval_row_from, context_from, head_from, session_from, switch_from
from runtime.store.state import Head, approval_from

# Behind the last entry of any list.
END_OF_TIME, END_OF_IDS = datetime(9999, 12, 31, tzinfo=UTC), MAX_SEQ
# How many rows are read at a time where all of them are asked for.
CHUNK = 1000

Position = tuple[datetime, Key]


class Heads(Protocol):
    """Finds the row of a head by owner and session id."""

    async def find(self, key: tuple[str, str]) -> Row | None: ...


def shared_heads(database: Database) -> Heads:
    """Those who look for heads at the same time share a statement."""
    return Lookup(partial(database.fetch, "list_heads"), itemgetter("owner", "session_id"))


class Reader:
    """Reads what is stored. Knows nothing of writes that wait: whoever reads waits for those first."""

    def __init__(
        self,
        database: Database,
        cache: Cache,
        metrics: Metrics,
        clock: Callable[[], datetime],
        heads: Heads,
    ) -> None:
        self._database = database
        self._cache = cache
        self._metrics = metrics
        self._clock = clock
        self._heads = heads

    async def find_head(self, key: SessionKey) -> Head | None:
        """A session's head, also of a deleted one. On SQLite memory is the truth (R2)."""
        cached = self._cache.head(key)
        if cached is not None and self._database.sole_writer:
            return cached
        epoch = self._cache.epoch
        row = await self._heads.find((key.owner, key.session_id))
        if row is None:
            return None
        head = head_from(row)
        if self._database.sole_writer:
            self._cache.put_head(head, epoch)
        elif cached is not None and cached.id == head.id and cached.version > head.version:
            return cached  # ours was committed while the database was asked
        return head

    async def get_head(self, key: SessionKey) -> Head:
        """The head of a session that is there. Raises SessionNotFound."""
        head = await self.find_head(key)
        if head is None or head.deleted_at is not None:
            raise SessionNotFound(key.session_id, deleted=head is not None)
        return head

    async def get_session(self, key: SessionKey) -> Session:
        """The session. Raises SessionNotFound."""
        rows = await self._database.fetch("find_session", key.owner, key.session_id)
        self._note_version(key, rows[0]["version"] if rows else None)
        if not rows or rows[0]["deleted_at"] is not None:
            raise SessionNotFound(key.session_id, deleted=bool(rows))
        return session_from(rows[0])

    async def list_sessions(
        self, owner: str, *, limit: int, cursor: str | None, include_deleted: bool, count: bool
    ) -> SessionPage:
        """A page of an owner's sessions, latest activity first. Raises InvalidInput for a bad cursor."""
        kind = "sessions_and_deleted" if include_deleted else "sessions"
        position = await self._position_of(owner, cursor)
        rows = await self._database.fetch(f"list_{kind}", owner, *position, limit + 1)
        total = (await self._database.fetch(f"count_{kind}", owner))[0]["total"] if count else msgspec.UNSET
        sessions = [session_from(row) for row in rows[:limit]]
        for session in sessions:
            self._note_version(SessionKey(owner, session.session_id), session.version)
        last = sessions[-1] if len(rows) > limit else None
        return SessionPage(
            sessions=sessions,
            next_cursor=None if last is None else _encode_cursor((last.last_activity, last.session_id)),
            total=total,
        )

    async def _position_of(self, owner: str, cursor: str | None) -> tuple[datetime, int]:
        """Where a page of sessions begins. A cursor names a session of the owner's: the number of a row would
        tell how many sessions all the others have."""
        if cursor is None:
            return END_OF_TIME, END_OF_IDS
        activity, session_id = _decode_cursor(cursor)
        row = await self._heads.find((owner, session_id))
        # One that was erased since is not there to be passed by: others of that very time come again.
        return activity, END_OF_IDS if row is None else row["id"]

    def _note_version(self, key: SessionKey, version: int | None) -> None:
        """R2: on SQLite memory is the truth, so no reader may have seen more than it tells the next one."""
        if self._database.sole_writer:
            self._cache.note_version(key, version)

    async def get_stats(self, key: SessionKey) -> SessionStats:
        """What a session has grown to. Raises SessionNotFound."""
        head = await self.get_head(key)
        session = await self.get_session(key)
        rows = await self._database.fetch("find_last_message_time", head.id)
        return SessionStats(
            session_id=key.session_id,
            version=head.version,
            message_count=head.message_count,
            total_tokens=head.token_total,
            last_message_at=rows[0]["timestamp"] if rows else None,
            created_at=session.created_at,
            last_activity=head.last_activity,
        )

    async def list_messages(
        self,
        key: SessionKey,
        *,
        after: int | None = None,
        before: int | None = None,
        last: int | None = None,
        limit: int = 100,
        role: Role | None = None,
    ) -> MessagePage:
        """A page by key (R3): behind `after`, up to `before`, or the `last` ones. Raises SessionNotFound."""
        head = await self.get_head(key)
        if before is None and last is None:
            messages, more = await self._messages_after(head, after or 0, limit, role)
        else:
            end = head.last_seq + 1 if before is None else min(before, head.last_seq + 1)
            messages, more = await self._messages_before(head, end, last or limit, role)
        return _page(head, messages, more)

    async def list_messages_of(self, head: Head, after: int, limit: int) -> MessagePage:
        """The page behind `after` of that very session, whatever bears its name by now."""
        return _page(head, *await self._messages_after(head, after, limit, None))

    async def list_numbered_page(
        self, key: SessionKey, *, page: int, page_size: int, role: Role | None
    ) -> MessagePage:
        """The `page`-th page, from 1, for clients that count pages. Raises SessionNotFound."""
        head = await self.get_head(key)
        offset, limit = (page - 1) * page_size, page_size + 1
        if role is None:
            rows = await self._database.fetch("list_messages_at", head.id, offset, limit)
        else:
            rows = await self._database.fetch("list_role_messages_at", head.id, role, offset, limit)
        return _page(head, _encode(rows[:page_size]), len(rows) > page_size)

    async def _messages_after(
        self, head: Head, after: int, limit: int, role: Role | None
    ) -> tuple[list[Encoded], bool]:
        if role is not None:
            rows = await self._database.fetch("list_role_messages_after", head.id, role, after, limit + 1)
            return _encode(rows[:limit]), len(rows) > limit
        entry = await self._entry(head)
        page = entry.after(after, limit) if entry is not None else None
        self._count(page is not None)
        if page is not None:
            return page
        rows = await self._database.fetch("list_messages_after", head.id, after, limit + 1)
        messages, more = _encode(rows[:limit]), len(rows) > limit
        if not more:
            self._cache.put_tail(head, after + 1, messages)
        return messages, more

    async def _messages_before(
        self, head: Head, end: int, limit: int, role: Role | None
    ) -> tuple[list[Encoded], bool]:
        if role is not None:
            rows = await self._database.fetch("list_role_messages_before", head.id, role, end, limit + 1)
            return _encode(rows[:limit])[::-1], len(rows) > limit
        entry = await self._entry(head)
        page = entry.before(end, limit) if entry is not None else None
        self._count(page is not None)
        if page is not None:
            return page
        rows = await self._database.fetch("list_messages_before", head.id, end, limit + 1)
        messages, more = _encode(rows[:limit])[::-1], len(rows) > limit
        if end > head.last_seq:
            self._cache.put_tail(head, messages[0][0] if more else 1, messages)
        return messages, more

    async def _entry(self, head: Head) -> Entry | None:
        """The cached tail of a session as it stands at `head`; only what it lacks is read (R2)."""
        entry = self._cache.get(head.key)
        # On SQLite `find_head` has kept the head, unless it may be old by now: then it must not be.
        behind = entry is None or (entry.head.id, entry.head.version) < (head.id, head.version)
        if behind and not self._database.sole_writer:
            old = head if entry is None else entry.head
            missing = None if entry is None else await self._missing(old, head)
            self._cache.catch_up(old, head, missing)
            entry = self._cache.get(head.key)
        current = entry is not None and entry.head.id == head.id and entry.head.version == head.version
        return entry if current else None

    async def _missing(self, old: Head, head: Head) -> list[Encoded] | None:
        """The messages between two heads; None where what is cached cannot be carried on."""
        count = head.last_seq - old.last_seq
        if old.id != head.id or head.cut_version > old.version or count > CHUNK:
            return None
        rows = (
            await self._database.fetch("list_messages_after", head.id, old.last_seq, count) if count else ()
        )
        return [message for message in _encode(rows) if message[0] <= head.last_seq]

    def _count(self, hit: bool) -> None:
        (self._metrics.cache_hits if hit else self._metrics.cache_misses).inc()

    async def get_history(self, key: SessionKey) -> History:
        """A whole conversation in chat form, as it stood at one moment. Raises SessionNotFound."""
        head = await self.get_head(key)
        context = await self.get_context(key)
        encoded = await self._whole_conversation(head)
        switches = await self._all_switches(head)
        now = await self.get_head(key)
        if now.id != head.id or now.cut_version > head.version:
            # Messages were taken away while they were read: what was read never stood there together.
            return await self.get_history(key)
        return History(
            session_id=key.session_id,
            version=head.version,
            encoded=encoded,
            message_count=len(encoded),
            last_activity=head.last_activity,
            current_agent=context.current_agent,
            agent_history=switches[: context.switch_count],
        )

    async def _whole_conversation(self, head: Head) -> list[msgspec.Raw]:
        encoded: list[msgspec.Raw] = []
        after = 0
        while after < head.last_seq:
            rows = await self._database.fetch("list_messages_after", head.id, after, CHUNK)
            encoded += [msgspec.Raw(encode_chat_message(row)) for row in rows if row["seq"] <= head.last_seq]
            after = rows[-1]["seq"] if rows else head.last_seq
        return encoded

    async def get_context(self, key: SessionKey) -> AgentContext:
        """Which agent holds the session. Raises SessionNotFound."""
        head = await self.get_head(key)
        rows = await self._database.fetch("find_agent_context", head.id)
        if not rows:
            raise SessionNotFound(key.session_id)  # deleted for good in between
        return context_from(key.session_id, head.version, rows[0])

    async def list_switches(self, key: SessionKey, *, limit: int, before: int | None) -> SwitchPage:
        """Handovers of a session, latest first. Raises SessionNotFound."""
        head = await self.get_head(key)
        end = END_OF_IDS if before is None else before
        rows = await self._database.fetch("list_agent_switches", head.id, end, limit)
        return SwitchPage(key.session_id, head.version, [switch_from(row) for row in rows])

    async def _all_switches(self, head: Head) -> list[AgentSwitch]:
        """Every handover, in the order in which they happened."""
        switches: list[AgentSwitch] = []
        rows = await self._database.fetch("list_agent_switches", head.id, END_OF_IDS, CHUNK)
        while rows:
            switches += [switch_from(row) for row in rows]
            rows = await self._database.fetch("list_agent_switches", head.id, rows[-1]["n"], CHUNK)
        return switches[::-1]

    async def list_agent_history(self, key: SessionKey) -> list[AgentSwitch]:
        """Every handover of a session, in the order in which they happened. Raises SessionNotFound."""
        return await self._all_switches(await self.get_head(key))

    async def list_approvals(self, key: SessionKey, *, status: ApprovalStatus | None) -> ApprovalList:
        """Approvals of a session, oldest first, as they stand now. Raises SessionNotFound."""
        head = await self.get_head(key)
        if status is None:
            rows = await self._database.fetch("list_approvals", head.id)
        else:
            # One that has expired is still stored as pending.
            stored = "pending" if status == "expired" else status
            rows = await self._database.fetch("list_approvals_by_status", head.id, stored)
        now = self._clock()
        approvals = [approval_from(key.session_id, approval_row_from(row)).at(now) for row in rows]
        wanted = [approval for approval in approvals if status in (None, approval.status)]
        return ApprovalList(key.session_id, head.version, wanted)

    async def find_approval(self, key: SessionKey, call_id: str) -> Approval | None:
        """The approval for a call, as it stands now. Raises SessionNotFound."""
        head = await self.get_head(key)
        rows = await self._database.fetch("find_approval", head.id, call_id)
        found = [approval_from(key.session_id, approval_row_from(row)).at(self._clock()) for row in rows]
        return found[0] if found else None

    async def count_waiting_approvals(self) -> int:
        """How many tool calls wait for a person, in all sessions."""
        [row] = await self._database.fetch("count_waiting_approvals", self._clock())
        return int(row["waiting"])


def _encode(rows: Sequence[Row]) -> list[Encoded]:
    return [(row["seq"], msgspec.Raw(encode_row(row))) for row in rows]


def _page(head: Head, messages: Sequence[Encoded], more: bool) -> MessagePage:
    shown = messages
    if messages and messages[-1][0] > head.last_seq:
        # A message that was committed after the head was read belongs to a later page.
        shown = [message for message in messages if message[0] <= head.last_seq]
    return MessagePage(
        session_id=head.key.session_id,
        seqs=[seq for seq, _ in shown],
        encoded=[raw for _, raw in shown],
        more=more,
        last_seq=head.last_seq,
        version=head.version,
    )


def _encode_cursor(position: Position) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(position)).decode().rstrip("=")


def _decode_cursor(cursor: str) -> Position:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        activity, session_id = msgspec.json.decode(text, type=Position)
        return activity.astimezone(UTC), session_id
    except (ValueError, binascii.Error, msgspec.MsgspecError, OverflowError):
        raise InvalidInput("$.cursor", "Expected a `next_cursor` of an earlier page") from None
