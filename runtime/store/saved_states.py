"""The store as programs use it that keep the state of a session themselves, and save all of it as it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Any
from weakref import WeakValueDictionary

from msgspec import UNSET, UnsetType

from runtime.errors import ApprovalNotFound, SessionNotFound
from runtime.models import MAX_LIMIT, AgentSwitch, Approval, ApprovalStatus, Metadata
from runtime.store.core import Core
from runtime.store.messages import new_messages
from runtime.store.paging import PAGE_BYTES, fetch_page
from runtime.store.read.reader import (
    APPROVALS,
    BEGINNING_OF_TIME,
    END_OF_IDS,
    END_OF_TIME,
)
from runtime.store.records import SessionKey, approval_from, approval_row_from
from runtime.store.validation import check_key, json_list, json_text, optional_text
from runtime.store.write.commands import Command, DeleteSession
from runtime.store.write.outcomes import Saved, SessionDeleted
from runtime.store.write.save_commands import (
    RemoveContext,
    SaveApproval,
    SaveContext,
    SaveDetails,
    SavedSwitch,
    SaveSession,
    SetApprovalStatus,
)

# Approvals outlive their session, and may be there before it. The session that holds them then has the same
# id and this owner, whom nobody can sign in as: a name has no control characters. So no list of sessions
# shows it, a session of that id can be made at any time, and nothing has to be moved then: approvals are
# read from both.
ASIDE = "\x01"
OWNERS = ("", ASIDE)
# How many sessions a clean-up deletes at the same time.
CHUNK = 100


def saved_switch(
    from_agent: str | None,
    to_agent: str,
    switched_at: datetime,
    *,
    reason: str | None = None,
    metadata: Metadata | None = None,
) -> SavedSwitch:
    """A handover to save; the first agent of a session has no origin. Raises InvalidInput."""
    return SavedSwitch(
        None if from_agent is None else check_key(from_agent, "$.from"),
        check_key(to_agent, "$.to"),
        switched_at,
        optional_text(reason, "$.reason"),
        json_text(metadata or {}, "$.metadata"),
    )


class SavedStates:
    """Saves states as they are given, and reads them back. Its sessions are those without an owner.

    Writes of one session take effect in the order in which they are called. Methods raise what those of
    Store raise.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def save_session(
        self, session_id: str, messages: Sequence[Any], last_activity: datetime, *, title: str | None = None
    ) -> None:
        """Make this the history of a session, which is made where it is missing; set a missing title.

        Raises SessionNotFound where it is deleted.
        """
        command = SaveSession(
            _key(session_id),
            new_messages(messages),
            last_activity=last_activity,
            title=optional_text(title, "$.title"),
        )
        await self._write(command)

    async def _write(self, command: Command) -> Saved:
        # The time to measure a large command must not let a later one of its session overtake it.
        lock = self._locks.setdefault(command.key.session_id, asyncio.Lock())
        async with lock:
            return await self._core.submitter.write(command, Saved, {})

    async def save_details(
        self,
        session_id: str,
        *,
        title: str | UnsetType | None = UNSET,
        description: str | UnsetType | None = UNSET,
    ) -> None:
        """Change what is given, without activity of the session."""
        command = SaveDetails(
            _key(session_id),
            title if title is UNSET else optional_text(title, "$.title"),
            description if description is UNSET else optional_text(description, "$.description"),
        )
        await self._write(command)

    async def delete_session(self, session_id: str, *, hard: bool) -> bool:
        """Delete a session, a deleted one too; False where there is none. Approvals are kept."""
        key = _key(session_id)
        await self._core.writer.settle(key)
        head = await self._core.reader.find_head(key)
        if head is None:
            return False
        if hard:
            await self._keep_approvals(key)
        elif head.deleted_at is not None:
            return True
        since = None if head.deleted_at is None else END_OF_TIME
        command = DeleteSession(key, hard=hard, deleted_since=since)
        try:
            return (await self._core.submitter.write(command, SessionDeleted, {})).deleted
        except SessionNotFound:
            return False

    async def _keep_approvals(self, key: SessionKey) -> None:
        """Copy the approvals of a session that is to be erased."""
        async for approval in self._approvals(key):
            expires = approval.expires_at
            await self._write(
                SaveApproval(
                    SessionKey(ASIDE, key.session_id),
                    approval.call_id,
                    json_text(approval.tool_name),
                    bytes(approval.encoded_arguments).decode(),
                    optional_text(approval.reason, "$.reason"),
                    None if expires is None else (expires - approval.created_at).total_seconds(),
                    create=True,
                    status=approval.status,
                    created_at=approval.created_at,
                )
            )

    async def _approvals(self, key: SessionKey) -> AsyncIterator[Approval]:
        """All approvals of a session, a deleted one too, oldest first, as they are stored."""
        await self._core.writer.settle(key)
        head = await self._core.reader.find_head(key)
        place, more = (BEGINNING_OF_TIME, ""), head is not None
        while head is not None and more:
            rows, more = await fetch_page(
                self._core.database, APPROVALS, (head.id, *place), MAX_LIMIT, PAGE_BYTES
            )
            for row in rows:
                yield approval_from(key.session_id, approval_row_from(row))
            if more:
                place = (rows[-1]["created_at"], rows[-1]["call_id"])

    async def delete_idle_sessions(self, max_age: timedelta) -> int:
        """Delete sessions without activity for longer; return how many."""
        since, total = self._core.clock() - max_age, 0
        await self._core.writer.settle(None)
        while True:
            rows = await self._core.database.fetch("list_idle_sessions", since, "", CHUNK)
            # Those without an owner come before all others.
            ids = [row["session_id"] for row in rows if row["owner"] == ""]
            commands = [DeleteSession(_key(session_id), idle_since=since) for session_id in ids]
            deleted = await self._delete_all(commands)
            total += deleted
            if not deleted:
                return total

    async def _delete_all(self, commands: Sequence[DeleteSession]) -> int:
        writes = (self._core.submitter.write(command, SessionDeleted, {}) for command in commands)
        return sum(outcome.deleted for outcome in await asyncio.gather(*writes))

    async def erase_deleted_sessions(self, max_age: timedelta) -> int:
        """Erase sessions that were deleted longer ago; return how many. Approvals are kept."""
        since, total = self._core.clock() - max_age, 0
        for session_id, deleted_at in await self.list_sessions(include_deleted=True):
            if deleted_at is not None and deleted_at < since:
                await self._keep_approvals(_key(session_id))
                command = DeleteSession(_key(session_id), hard=True, deleted_since=since)
                total += await self._delete_all([command])
        return total

    async def list_sessions(self, *, include_deleted: bool = False) -> list[tuple[str, datetime | None]]:
        """The ids of all sessions, each with the time at which it was deleted; latest activity first."""
        await self._core.writer.settle(None)
        found: list[tuple[str, datetime | None]] = []
        cursor, more = None, True
        while more:
            page = await self._core.session_lists.list_sessions(
                "", limit=MAX_LIMIT, cursor=cursor, include_deleted=include_deleted, count=False
            )
            found += [(session.session_id, session.deleted_at) for session in page.sessions]
            cursor, more = page.next_cursor, page.next_cursor is not None
        # A session that becomes active while the pages are read may be on two of them.
        return list(dict(found).items())

    async def save_context(
        self,
        session_id: str,
        agent: str,
        *,
        metadata: Metadata,
        created_at: datetime,
        switch_count: int,
        switches: Sequence[SavedSwitch],
    ) -> None:
        """Make this the agent context of a session, with exactly these handovers."""
        command = SaveContext(
            _key(session_id),
            agent=check_key(agent, "$.current_agent"),
            metadata=json_text(metadata, "$.metadata"),
            created_at=created_at,
            switch_count=switch_count,
            switches=tuple(switches),
        )
        await self._write(command)

    async def remove_context(self, session_id: str) -> bool:
        """Take the agent context of a session away; False where it has none of its own."""
        try:
            return (await self._write(RemoveContext(_key(session_id)))).changed
        except SessionNotFound:
            return False

    async def has_context(self, session_id: str) -> bool:
        """Whether a session has an agent context of its own: saved, or changed since it began."""
        key = await self._core.settled_key("", session_id)
        head = await self._core.reader.find_head(key)
        if head is None or head.deleted_at is not None:
            return False
        bare = await self._core.database.fetch("list_bare_sessions", json_list([head.id]))
        if not bare:
            return True
        context = await self._core.reader.get_context(key)
        return context.switch_count != 0 or bool(context.metadata)

    async def list_contexts(self) -> list[str]:
        """The ids of the sessions that have an agent context of their own, latest activity first."""
        await self._core.writer.settle(None)
        found: dict[str, None] = {}
        place = (END_OF_TIME, END_OF_IDS)
        while rows := await self._core.database.fetch("list_sessions_with_context", "", *place, MAX_LIMIT):
            found |= dict.fromkeys(row["session_id"] for row in rows)
            place = (rows[-1]["last_activity"], rows[-1]["id"])
        return list(found)

    async def list_switches(self, session_id: str, *, limit: int | None = None) -> list[AgentSwitch]:
        """The latest handovers of a session, latest first; all of them without a limit."""
        key = await self._core.settled_key("", session_id)
        found: list[AgentSwitch] = []
        before, left = None, END_OF_IDS if limit is None else limit
        while left > 0:
            page = await self._core.reader.list_switches(key, limit=min(left, MAX_LIMIT), before=before)
            found += page.switches
            before, left = page.next_before, left - len(page.switches)
            if before is None:
                break
        return found

    async def save_approval(
        self, session_id: str, call_id: str, tool_name: str, arguments: Any, *, reason: str | None = None
    ) -> bool:
        """Let a tool call wait, also of a session that does not exist; False where the call is known."""
        call_id = check_key(call_id, "$.call_id")
        texts = (json_text(tool_name, "$.tool_name"), json_text(arguments, "$.arguments"))
        why = optional_text(reason, "$.reason")
        try:
            command = SaveApproval(_key(session_id), call_id, *texts, why, owners=OWNERS)
            return (await self._write(command)).changed
        except SessionNotFound:
            aside = SessionKey(ASIDE, session_id)
            command = SaveApproval(aside, call_id, *texts, why, owners=OWNERS, create=True)
            return (await self._write(command)).changed

    async def list_pending_approvals(self, session_id: str) -> list[Approval]:
        """The tool calls of a session that wait for a person, oldest first."""
        check_key(session_id, "$.session_id")
        now = self._core.clock()
        found = [
            approval
            for owner in OWNERS
            async for approval in self._approvals(SessionKey(owner, session_id))
            if approval.at(now).status == "pending"
        ]
        return sorted(found, key=lambda approval: approval.created_at)

    async def set_approval_status(self, call_id: str, status: ApprovalStatus | None) -> bool:
        """Set the status of the approval for a call, in whichever session it is; None takes it away.

        Returns False where there is none.
        """
        names = json_list([check_key(call_id, "$.call_id")])
        for row in await self._core.database.fetch("list_approval_places", names):
            if row["owner"] in OWNERS:
                key = SessionKey(row["owner"], row["session_id"])
                try:
                    await self._write(SetApprovalStatus(key, call_id, status))
                    return True
                except ApprovalNotFound:
                    # Another caller has taken it away meanwhile.
                    continue
        return False


def _key(session_id: str) -> SessionKey:
    return SessionKey("", check_key(session_id, "$.session_id"))
