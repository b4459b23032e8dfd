"""Reads heads, sessions, lists and approvals, from the cache if it is current."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from functools import partial
from operator import itemgetter
from typing import NamedTuple, Protocol

from runtime.db.database import Database, Row
from runtime.errors import ApprovalNotFound, SessionNotFound
from runtime.metrics import Metrics
from runtime.models import (
    MAX_SEQ,
    AgentContext,
    AgentSwitch,
    Approval,
    ApprovalList,
    ApprovalStatus,
    MessagePage,
    Role,
    Session,
    SessionStats,
    SwitchPage,
)
from runtime.store.cache import Cache
from runtime.store.paging import CHUNK_BYTES, PAGE_BYTES, Listing, fetch_page
from runtime.store.read.batch_loader import BatchLoader
from runtime.store.read.message_pages import MessageChunk, MessagePages, NumberedPage, last_seq_kept
from runtime.store.records import (
    Head,
    SessionKey,
    approval_from,
    approval_row_from,
    context_from,
    head_from,
    session_from,
    switch_from,
)

# After the last entry of any list.
END_OF_TIME, END_OF_IDS = datetime(9999, 12, 31, tzinfo=UTC), MAX_SEQ
BEGINNING_OF_TIME = datetime(1, 1, 1, tzinfo=UTC)
# The most handovers of a history, within CHUNK_BYTES.
MAX_AGENT_HISTORY = 1000

SWITCHES = Listing("list_agent_switches", "measure_agent_switches")
APPROVALS = Listing("list_approvals", "measure_approvals")
APPROVALS_BY_STATUS = Listing("list_approvals_by_status", "measure_approvals_by_status")


class HistoryReading(NamedTuple):
    """A conversation, read as it is consumed, and its latest handovers. Its chunks may raise MessagesCut."""

    head: Head
    context: AgentContext
    switches: list[AgentSwitch]
    chunks: AsyncIterator[MessageChunk]


class Heads(Protocol):
    """Finds the row of a head by owner and session id."""

    async def find(self, key: tuple[str, str]) -> Row | None: ...


def shared_heads(database: Database) -> Heads:
    """A look-up of heads in which concurrent callers share a query."""
    return BatchLoader(partial(database.fetch, "list_heads"), itemgetter("owner", "session_id"))


class Reader:
    """Reads sessions and their parts. Callers wait for buffered writes first."""

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
        self._pages = MessagePages(database, cache, metrics)
        self._clock = clock
        self._heads = heads

    async def find_head(self, key: SessionKey) -> Head | None:
        """A session's head, also of a deleted session. On SQLite the cache is authoritative (R2)."""
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
            return cached  # committed by this instance during the query
        return head

    async def get_head(self, key: SessionKey) -> Head:
        """The head of a session that is not deleted. Raises SessionNotFound."""
        head = await self.find_head(key)
        if head is None or head.deleted_at is not None:
            raise SessionNotFound(key.session_id, deleted=head is not None)
        return head

    async def get_session(self, key: SessionKey) -> Session:
        """The session. Raises SessionNotFound."""
        rows = await self._database.fetch("find_session", key.owner, key.session_id)
        self.note_version(key, rows[0]["version"] if rows else None)
        if not rows or rows[0]["deleted_at"] is not None:
            raise SessionNotFound(key.session_id, deleted=bool(rows))
        return session_from(rows[0])

    def note_version(self, key: SessionKey, version: int | None) -> None:
        """Evict an older cached state (R2): no later read from the cache may be behind this one."""
        if self._database.sole_writer:
            self._cache.note_version(key, version)

    async def get_stats(self, key: SessionKey) -> SessionStats:
        """The size of a session. Raises SessionNotFound."""
        head = await self.get_head(key)
        session = await self.get_session(key)
        rows = await self._database.fetch("find_last_message_time", head.id, last_seq_kept(head))
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
        """A page by key (R3): after `after`, before `before`, or the `last` ones. Raises SessionNotFound."""
        head = await self.get_head(key)
        if before is None and last is None:
            return await self._pages.after(head, after or 0, limit, role)
        end = head.last_seq + 1 if before is None else min(before, head.last_seq + 1)
        return await self._pages.before(head, end, last or limit, role)

    async def list_messages_of(self, head: Head, after: int, limit: int) -> MessagePage:
        """The page after `after` of the session with this head, even if another has its id by now."""
        return await self._pages.after(head, after, limit, None, CHUNK_BYTES)

    async def read_numbered_page(
        self, key: SessionKey, *, page: int, page_size: int, role: Role | None
    ) -> NumberedPage:
        """The `page`-th page, from 1, for clients that count pages. Raises SessionNotFound."""
        return await self._pages.numbered(await self.get_head(key), page, page_size, role)

    async def read_history(self, key: SessionKey) -> HistoryReading:
        """A conversation in chat form, at one version. Raises SessionNotFound."""
        head = await self.get_head(key)
        context, switches = await self.read_agents(key)
        return HistoryReading(head, context, switches, self._pages.conversation(head))

    async def read_agents(self, key: SessionKey) -> tuple[AgentContext, list[AgentSwitch]]:
        """The agent context and the latest handovers that led to it, oldest first. Raises SessionNotFound."""
        context = await self.get_context(key)
        while True:
            switches = await self.list_agent_history(key)
            now = await self.get_context(key)
            if now.switch_count == context.switch_count:
                return now, switches
            context = now

    async def get_context(self, key: SessionKey) -> AgentContext:
        """The agent context of a session. Raises SessionNotFound."""
        head = await self.get_head(key)
        rows = await self._database.fetch("find_agent_context", head.id)
        if not rows:
            raise SessionNotFound(key.session_id)  # deleted for good in between
        return context_from(key.session_id, head.version, rows[0])

    async def list_switches(self, key: SessionKey, *, limit: int, before: int | None) -> SwitchPage:
        """Handovers of a session, latest first. Raises SessionNotFound."""
        head = await self.get_head(key)
        end = END_OF_IDS if before is None else before
        rows, more = await fetch_page(self._database, SWITCHES, (head.id, end), limit, PAGE_BYTES)
        switches = [switch_from(row) for row in rows]
        return SwitchPage(key.session_id, head.version, switches, switches[-1].id if more else None)

    async def list_agent_history(self, key: SessionKey) -> list[AgentSwitch]:
        """The latest handovers of a session, oldest first. Raises SessionNotFound."""
        head = await self.get_head(key)
        place = (head.id, END_OF_IDS)
        rows, _ = await fetch_page(self._database, SWITCHES, place, MAX_AGENT_HISTORY, CHUNK_BYTES, least=0)
        return [switch_from(row) for row in rows][::-1]

    async def list_approvals(
        self, key: SessionKey, *, status: ApprovalStatus | None, after: str | None, limit: int
    ) -> ApprovalList:
        """A page of a session's approvals, oldest first, after the one for the call `after`.

        Raises SessionNotFound, and ApprovalNotFound if there is no approval for that call.
        """
        head = await self.get_head(key)
        now = self._clock()
        position: tuple[datetime, str] = BEGINNING_OF_TIME, ""
        if after is not None:
            times = await self._database.fetch("find_approval_time", head.id, after)
            if not times:
                raise ApprovalNotFound(key.session_id, after)
            position = times[0]["created_at"], after
        listing: Listing = APPROVALS
        place: tuple[object, ...] = (head.id, *position)
        if status is not None:
            # An expired approval is stored as pending.
            stored = "pending" if status == "expired" else status
            limits = (now if status == "pending" else None, now if status == "expired" else None)
            listing, place = APPROVALS_BY_STATUS, (head.id, stored, *position, *limits)
        rows, more = await fetch_page(self._database, listing, place, limit, PAGE_BYTES)
        approvals = [approval_from(key.session_id, approval_row_from(row)).at(now) for row in rows]
        next_after = approvals[-1].call_id if more else None
        return ApprovalList(key.session_id, head.version, approvals, next_after)

    async def find_approval(self, key: SessionKey, call_id: str) -> Approval | None:
        """The approval for a call with its present status, or None. Raises SessionNotFound."""
        head = await self.get_head(key)
        rows = await self._database.fetch("find_approval", head.id, call_id)
        found = [approval_from(key.session_id, approval_row_from(row)).at(self._clock()) for row in rows]
        return found[0] if found else None

    async def count_waiting_approvals(self) -> int:
        """The number of tool calls that wait for a decision, in all sessions."""
        [row] = await self._database.fetch("count_waiting_approvals", self._clock())
        return int(row["waiting"])
