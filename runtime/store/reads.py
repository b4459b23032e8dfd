"""Public facade of the store: its reading methods."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from runtime.models import (
    MAX_LIMIT,
    MAX_PAGE,
    AgentContext,
    AgentSwitch,
    Approval,
    ApprovalList,
    ApprovalStatus,
    History,
    MessagePage,
    Role,
    Session,
    SessionPage,
    SessionStats,
    SwitchPage,
)
from runtime.store.commands import SessionKey
from runtime.store.feed import Feed, Follower
from runtime.store.message_pages import MessagesCut, NumberedPage, page_of
from runtime.store.reader import HistoryReading, Reader
from runtime.store.validation import check_key, check_limit, check_number, check_seq
from runtime.store.writer import Writer


class Reads:
    """Each read waits for what was accepted for its session (W6).

    Raises SessionNotFound, InvalidInput for a page that there cannot be, and DatabaseUnavailable for what
    may be tried again.
    """

    _reader: Reader
    _writer: Writer
    _feed: Feed

    async def get_session(self, session_id: str, *, owner: str = "") -> Session:
        """The session."""
        return await self._reader.get_session(await self._settled(owner, session_id))

    async def list_sessions(
        self,
        *,
        limit: int = 50,
        cursor: str | None = None,
        include_deleted: bool = False,
        count: bool = False,
        owner: str = "",
    ) -> SessionPage:
        """An owner's sessions, latest activity first; `cursor` is the `next_cursor` of the page before."""
        check_limit(limit, "limit")
        await self._writer.settle(None)
        return await self._reader.list_sessions(
            owner, limit=limit, cursor=cursor, include_deleted=include_deleted, count=count
        )

    async def get_stats(self, session_id: str, *, owner: str = "") -> SessionStats:
        """What a session has grown to."""
        return await self._reader.get_stats(await self._settled(owner, session_id))

    async def list_messages(
        self,
        session_id: str,
        *,
        after: int | None = None,
        before: int | None = None,
        last: int | None = None,
        limit: int = 100,
        role: Role | None = None,
        owner: str = "",
    ) -> MessagePage:
        """A page of messages, oldest first: behind `after`, up to `before`, or the `last` ones."""
        check_limit(limit if last is None else last, "limit" if last is None else "last")
        check_seq(after, "after")
        check_seq(before, "before")
        key = await self._settled(owner, session_id)
        return await self._reader.list_messages(
            key, after=after, before=before, last=last, limit=limit, role=role
        )

    async def list_numbered_page(
        self, session_id: str, *, page: int, page_size: int, role: Role | None = None, owner: str = ""
    ) -> MessagePage:
        """The `page`-th page of `page_size` messages, from 1, whole. Its cost grows with `page`."""
        while True:
            found = await self.read_numbered_page(
                session_id, page=page, page_size=page_size, role=role, owner=owner
            )
            with contextlib.suppress(MessagesCut):
                messages = [message async for chunk in found.chunks for message in chunk.messages]
                return page_of(found.head, messages, found.more)

    async def read_numbered_page(
        self, session_id: str, *, page: int, page_size: int, role: Role | None = None, owner: str = ""
    ) -> NumberedPage:
        """The same, read a chunk at a time: of large messages a page may be gigabytes."""
        check_number(page, "page", 1, MAX_PAGE)
        check_limit(page_size, "page_size")
        key = await self._settled(owner, session_id)
        return await self._reader.read_numbered_page(key, page=page, page_size=page_size, role=role)

    async def get_history(self, session_id: str, *, owner: str = "") -> History:
        """The whole conversation in chat form, as it stood at one moment."""
        while True:
            reading = await self.read_history(session_id, owner=owner)
            with contextlib.suppress(MessagesCut):
                encoded = [raw async for chunk in reading.chunks for _, raw in chunk.messages]
                return History(
                    session_id=session_id,
                    version=reading.head.version,
                    encoded=encoded,
                    message_count=len(encoded),
                    last_activity=reading.head.last_activity,
                    current_agent=reading.current_agent,
                    agent_history=reading.agent_history,
                )

    async def read_history(self, session_id: str, *, owner: str = "") -> HistoryReading:
        """The same, read a chunk at a time: a conversation may be larger than memory."""
        return await self._reader.read_history(await self._settled(owner, session_id))

    async def get_context(self, session_id: str, *, owner: str = "") -> AgentContext:
        """Which agent holds the session."""
        return await self._reader.get_context(await self._settled(owner, session_id))

    async def list_switches(
        self, session_id: str, *, limit: int = 100, before: int | None = None, owner: str = ""
    ) -> SwitchPage:
        """Handovers, latest first: those before number `before`, where it is given."""
        check_limit(limit, "limit")
        check_seq(before, "before")
        key = await self._settled(owner, session_id)
        return await self._reader.list_switches(key, limit=limit, before=before)

    async def list_agent_history(self, session_id: str, *, owner: str = "") -> list[AgentSwitch]:
        """The latest handovers, 1,000 and 1 MiB at most, in the order in which they happened."""
        return await self._reader.list_agent_history(await self._settled(owner, session_id))

    async def list_approvals(
        self,
        session_id: str,
        *,
        status: ApprovalStatus | None = None,
        after: str | None = None,
        limit: int = MAX_LIMIT,
        owner: str = "",
    ) -> ApprovalList:
        """A page of a session's approvals, oldest first: behind the one for the call `after`."""
        check_limit(limit, "limit")
        if after is not None:
            check_key(after, "after")
        key = await self._settled(owner, session_id)
        return await self._reader.list_approvals(key, status=status, after=after, limit=limit)

    async def find_approval(self, session_id: str, call_id: str, *, owner: str = "") -> Approval | None:
        """The approval for a call, if there is one."""
        return await self._reader.find_approval(await self._settled(owner, session_id), call_id)

    async def count_waiting_approvals(self) -> int:
        """How many tool calls wait for a person, in all sessions of every owner."""
        return await self._reader.count_waiting_approvals()

    @contextlib.asynccontextmanager
    async def follow(self, session_id: str, *, after: int = 0, owner: str = "") -> AsyncIterator[Follower]:
        """Follow a session from behind message `after`: its messages without a gap, then what comes."""
        check_seq(after, "after")
        follower = await self._feed.follow(await self._settled(owner, session_id), after)
        try:
            yield follower
        finally:
            self._feed.leave(follower)

    async def _settled(self, owner: str, session_id: str) -> SessionKey:
        key = SessionKey(owner, check_key(session_id, "$.session_id"))
        await self._writer.settle(key)
        return key
