"""Public facade of the store."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any, Unpack, overload

from msgspec import UNSET, UnsetType, structs

from runtime.config import Settings
from runtime.db.connect import open_database
from runtime.errors import CutNotMeasured, MetadataNotLoaded, SearchOff
from runtime.metrics import Metrics
from runtime.models import (
    DEFAULT_AGENT,
    MAX_EXPIRES_IN,
    MAX_LIMIT,
    MAX_PAGE,
    AgentContext,
    AgentSwitch,
    Approval,
    ApprovalList,
    ApprovalStatus,
    Buffered,
    Cleaned,
    Committed,
    Decision,
    Durability,
    ErasedOwner,
    History,
    MessagePage,
    Metadata,
    OwnerPage,
    Role,
    SearchPage,
    Session,
    SessionPage,
    SessionStats,
    SwitchPage,
    TurnList,
    utc_now,
)
from runtime.store.core import Core
from runtime.store.cuts import measure_cut
from runtime.store.exports import Exports
from runtime.store.follow.session_follower import Following, SessionFollower
from runtime.store.follow.turn_follower import TurnFollower, parse_position
from runtime.store.forks import Forks
from runtime.store.imports import Imports
from runtime.store.messages import Messages, new_messages
from runtime.store.owners import Owners, check_owner
from runtime.store.read.activity import ActivityReader
from runtime.store.read.export_reader import ExportScope
from runtime.store.read.message_pages import MessagesCut, NumberedPage, page_of
from runtime.store.read.reader import HistoryReading
from runtime.store.read.search import Wanted, search
from runtime.store.read.session_lists import Members, SessionFilter
from runtime.store.records import SessionKey
from runtime.store.saved_states import SavedStates
from runtime.store.submission import BufferedOptions, WriteOptions, session_key
from runtime.store.tokens import Tokens
from runtime.store.turn_store import TurnStore
from runtime.store.validation import (
    JsonObject,
    check_key,
    check_limit,
    check_number,
    check_seq,
    json_text,
    optional_text,
)
from runtime.store.write import commands
from runtime.store.write.fork_commands import ForkSession
from runtime.store.write.outcomes import (
    Accepted,
    Appended,
    ApprovalDeleted,
    ApprovalWritten,
    ContextWritten,
    Replaced,
    SessionDeleted,
    SessionWritten,
    Switched,
    Truncated,
    TurnWritten,
)
from runtime.store.write.turn_commands import StopTurn

# How long a search waits for the latest messages to be indexed.
SEARCH_SECONDS = 1.0


class Store:
    """Stores conversations; opened by `open_store`.

    The turn engine uses `turns`, access control `tokens`, programs that save whole states `saved`, and the
    import of other databases `imports`; `exports` streams to readers of any pace.

    A write returns after COMMIT (W5) unless it is buffered. It raises InvalidInput for wrong input, another
    RequestError if it cannot be carried out, and NotStored if it may be retried. A read first waits for the
    buffered writes to its session (W6). It raises SessionNotFound, InvalidInput for wrong bounds, and
    DatabaseUnavailable if it may be retried.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self.unstored = 0
        self.turns = TurnStore(core)
        self.activity = ActivityReader(core.database, core.reader, core.clock)
        self.tokens = Tokens(core.database, core.clock)
        self.saved = SavedStates(core)
        self.imports = Imports(core)
        self._owners = Owners(core, self.tokens)
        self._forks = Forks(core)
        self.exports = Exports(core)

    async def create_session(
        self,
        session_id: str | None = None,
        *,
        title: str | None = None,
        description: str | None = None,
        metadata: Metadata | JsonObject | None = None,
        agent: str | None = None,
        messages: Messages = (),
        if_missing: bool = False,
        **options: Unpack[WriteOptions],
    ) -> SessionWritten:
        """Create a session, with a new UUIDv7 as its id if none is given.

        Raises SessionExists. With `if_missing` an existing session is returned instead.
        """
        command = commands.CreateSession(
            session_key(session_id, options),
            title=optional_text(title, "$.title"),
            description=optional_text(description, "$.description"),
            metadata=json_text(metadata or {}, "$.metadata"),
            agent=DEFAULT_AGENT if agent is None else check_key(agent, "$.agent"),
            messages=new_messages(messages, "$.messages"),
            if_missing=if_missing,
        )
        return await self._core.submitter.write(command, SessionWritten, options)

    async def update_session(
        self,
        session_id: str,
        *,
        title: str | UnsetType | None = UNSET,
        description: str | UnsetType | None = UNSET,
        metadata: Metadata | JsonObject | UnsetType | None = UNSET,
        is_active: bool | UnsetType = UNSET,
        **options: Unpack[WriteOptions],
    ) -> SessionWritten:
        """Change the given fields; None removes a title, a description or all of the metadata.

        Metadata is merged (RFC 7396): a member that is None is removed, and nested objects are merged.
        """
        command = commands.UpdateSession(
            session_key(session_id, options),
            title=title if title is UNSET else optional_text(title, "$.title"),
            description=description if description is UNSET else optional_text(description, "$.description"),
            metadata=metadata if metadata is UNSET else json_text(metadata, "$.metadata"),
            is_active=is_active,
        )
        request = await self._core.submitter.request(command, options)
        while True:
            with contextlib.suppress(MetadataNotLoaded):
                return await self._core.submitter.submit(request, SessionWritten, options)

    async def fork_session(
        self,
        source: str,
        session_id: str | None = None,
        *,
        after: int | None = None,
        title: str | UnsetType | None = UNSET,
        metadata: Metadata | JsonObject | UnsetType | None = UNSET,
        **options: Unpack[WriteOptions],
    ) -> SessionWritten:
        """Create a session as a copy of session `source` up to message `after`, or of all of its messages.

        The messages keep their numbers, times and fields. The agent and its switches are those at the time of
        that message. Approvals, turns and idempotency keys are not copied; title, description and metadata
        are, unless others are given. `if_match` is the version that the source must have. Raises
        SessionNotFound, SessionExists, and InvalidInput for a number above that of the last message.
        """
        check_seq(after, "$.after")
        command = ForkSession(
            session_key(session_id, options),
            check_key(source, "$.source"),
            after,
            title=title if title is UNSET else optional_text(title, "$.title"),
            metadata=metadata if metadata is UNSET else json_text(metadata or {}, "$.metadata"),
        )
        return await self._forks.fork(command, options)

    async def delete_session(
        self, session_id: str, *, hard: bool = False, **options: Unpack[WriteOptions]
    ) -> SessionDeleted:
        """Delete a session: so that it can be restored, or for good (`hard`).

        A hard deletion takes effect at COMMIT. The rows of a large session are erased afterwards, in
        portions; this waits for them up to the write timeout.
        """
        key = session_key(session_id, options)
        deleted = await self._core.submitter.write(
            commands.DeleteSession(key, hard=hard), SessionDeleted, options
        )
        if hard:
            await self._core.eraser.wait_for(key, self._core.writer.queue.limits.write_timeout)
        return deleted

    async def restore_session(self, session_id: str, **options: Unpack[WriteOptions]) -> SessionWritten:
        """Restore a deleted session; one that is not deleted is left as it is."""
        return await self._core.submitter.write(
            commands.RestoreSession(session_key(session_id, options)), SessionWritten, options
        )

    @overload
    async def append_messages(
        self,
        session_id: str,
        messages: Messages,
        *,
        durability: Committed = ...,
        **options: Unpack[WriteOptions],
    ) -> Appended: ...
    @overload
    async def append_messages(
        self, session_id: str, messages: Messages, *, durability: Buffered, **options: Unpack[BufferedOptions]
    ) -> Accepted: ...
    @overload
    async def append_messages(
        self,
        session_id: str,
        messages: Messages,
        *,
        durability: Durability | None,
        **options: Unpack[WriteOptions],
    ) -> Appended | Accepted: ...
    async def append_messages(
        self,
        session_id: str,
        messages: Messages,
        *,
        durability: Durability | None = None,
        **options: Unpack[WriteOptions],
    ) -> Appended | Accepted:
        """Add messages in chat-completion form, which may have other fields: all of them, or none.

        The default of `durability` is in the settings. A buffered write returns Accepted.
        """
        command = commands.AppendMessages(session_key(session_id, options), new_messages(messages))
        return await self._core.submitter.write_or_accept(command, Appended, durability, options)

    @overload
    async def replace_messages(
        self,
        session_id: str,
        messages: Messages,
        *,
        create: bool = ...,
        durability: Committed = ...,
        **options: Unpack[WriteOptions],
    ) -> Replaced: ...
    @overload
    async def replace_messages(
        self,
        session_id: str,
        messages: Messages,
        *,
        create: bool = ...,
        durability: Buffered,
        **options: Unpack[BufferedOptions],
    ) -> Accepted: ...
    @overload
    async def replace_messages(
        self,
        session_id: str,
        messages: Messages,
        *,
        create: bool = ...,
        durability: Durability | None,
        **options: Unpack[WriteOptions],
    ) -> Replaced | Accepted: ...
    async def replace_messages(
        self,
        session_id: str,
        messages: Messages,
        *,
        create: bool = False,
        durability: Durability | None = None,
        **options: Unpack[WriteOptions],
    ) -> Replaced | Accepted:
        """Replace the history in one step; stored messages that equal its beginning are kept.

        With `create` a missing session is created.
        """
        command = commands.ReplaceMessages(session_key(session_id, options), new_messages(messages), create)
        return await self._core.submitter.write_or_accept(command, Replaced, durability, options)

    async def truncate_messages(
        self, session_id: str, *, after: int, **options: Unpack[WriteOptions]
    ) -> Truncated:
        """Remove the messages after number `after`. Their numbers are not reused."""
        check_seq(after, "$.after")
        key = session_key(session_id, options)
        request = await self._core.submitter.request(commands.TruncateMessages(key, after), options)
        while True:
            try:
                return await self._core.submitter.submit(request, Truncated, options)
            except CutNotMeasured:
                # Count the messages outside of the writer, which may take a while, and submit again. Another
                # cut makes the count invalid.
                head = await self._core.reader.find_head(key)
                measured = None if head is None else await measure_cut(self._core.database, head, after)
                request = structs.replace(request, measured=measured)

    async def switch_agent(
        self,
        session_id: str,
        agent: str,
        *,
        reason: str | None = None,
        metadata: Metadata | JsonObject | None = None,
        **options: Unpack[WriteOptions],
    ) -> Switched:
        """Hand the conversation over; a handover to its present agent changes nothing."""
        command = commands.SwitchAgent(
            session_key(session_id, options),
            agent=check_key(agent, "$.agent"),
            reason=optional_text(reason, "$.reason"),
            metadata=json_text(metadata or {}, "$.metadata"),
        )
        return await self._core.submitter.write(command, Switched, options)

    async def update_context(
        self, session_id: str, metadata: Metadata | JsonObject, **options: Unpack[WriteOptions]
    ) -> ContextWritten:
        """Set the metadata of the agent context."""
        command = commands.UpdateContext(session_key(session_id, options), json_text(metadata, "$.metadata"))
        return await self._core.submitter.write(command, ContextWritten, options)

    async def create_approval(
        self,
        session_id: str,
        call_id: str,
        tool_name: str,
        arguments: Any,
        *,
        reason: str | None = None,
        expires_in: float | None = None,
        **options: Unpack[WriteOptions],
    ) -> ApprovalWritten:
        """Let a tool call wait for a person, for `expires_in` seconds or without limit.

        Raises ApprovalExists.
        """
        if expires_in is not None:
            check_number(expires_in, "$.expires_in", 0, MAX_EXPIRES_IN)
        command = commands.CreateApproval(
            session_key(session_id, options),
            call_id=check_key(call_id, "$.call_id"),
            tool_name=json_text(tool_name, "$.tool_name"),
            arguments=json_text(arguments, "$.arguments"),
            reason=optional_text(reason, "$.reason"),
            expires_in=expires_in,
        )
        return await self._core.submitter.write(command, ApprovalWritten, options)

    async def decide_approval(
        self,
        session_id: str,
        call_id: str,
        decision: Decision,
        *,
        modified_arguments: Any = None,
        feedback: str | None = None,
        **options: Unpack[WriteOptions],
    ) -> ApprovalWritten:
        """Decide about a waiting tool call, once; a repeat of the decision changes nothing.

        Raises ApprovalNotFound, ApprovalDecided, ApprovalExpired.
        """
        command = commands.DecideApproval(
            session_key(session_id, options),
            call_id=check_key(call_id, "$.call_id"),
            decision=decision,
            modified_arguments=optional_text(modified_arguments, "$.modified_arguments"),
            feedback=optional_text(feedback, "$.feedback"),
        )
        return await self._core.submitter.write(command, ApprovalWritten, options)

    async def delete_approval(
        self, session_id: str, call_id: str, **options: Unpack[WriteOptions]
    ) -> ApprovalDeleted:
        """Delete an approval. Raises ApprovalNotFound."""
        command = commands.DeleteApproval(session_key(session_id, options), check_key(call_id, "$.call_id"))
        return await self._core.submitter.write(command, ApprovalDeleted, options)

    async def cleanup(
        self, *, max_age_hours: float = 24, hard_delete_after_days: float = 30, dry_run: bool = False
    ) -> Cleaned:
        """Delete idle sessions and erase those deleted long ago, of all owners.

        Deletes old idempotency keys and events of turns, too. Works in small transactions. A `dry_run`
        counts what would be deleted and erased, and changes nothing.
        """
        await self._core.writer.settle(None)
        work = self._core.cleanup.count if dry_run else self._core.cleanup.clean
        return await work(max_age_hours, hard_delete_after_days)

    def keep_retention(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Delete sessions by the settings `retain_…` in the background, inside an `async with` block."""
        return self._core.retention.kept()

    async def list_owners(self, *, limit: int = 50, cursor: str | None = None) -> OwnerPage:
        """Return a page of the owners of sessions, by name; `cursor` is the previous page's `next_cursor`.

        A page ends early after 10,000 sessions; an owner who alone has more gets lower bounds (`at_least`).
        """
        return await self._owners.list_owners(limit, cursor)

    async def erase_owner(self, owner: str, *, nobody: bool = False, dry_run: bool = False) -> ErasedOwner:
        """Erase all that an owner has, tokens too, and return how much; a repeat returns zeros.

        Sessions of the owner "", which has no name, are erased with `nobody` alone. A `dry_run` counts. Works
        in small transactions and may be interrupted; a repeat goes on. Raises InvalidInput.
        """
        check_owner(owner, nobody=nobody)
        return await (self._owners.count(owner) if dry_run else self._owners.erase(owner))

    async def vacuum(self) -> None:
        """Rewrite the database's files, so that nothing deleted is left in them. Writes wait meanwhile."""
        await self._core.database.vacuum()

    async def get_session(self, session_id: str, *, owner: str = "") -> Session:
        """Return the session."""
        return await self._core.reader.get_session(await self._core.settled_key(owner, session_id))

    async def list_sessions(
        self,
        *,
        limit: int = 50,
        cursor: str | None = None,
        include_deleted: bool = False,
        count: bool = False,
        agent: str | None = None,
        is_active: bool | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        active_after: datetime | None = None,
        active_before: datetime | None = None,
        metadata: Members = (),
        owner: str = "",
    ) -> SessionPage:
        """Return a page of sessions, latest activity first; `cursor` is the previous page's `next_cursor`.

        A page may end before `limit`; the last one has no `next_cursor`. All filters must hold. A member of
        `metadata` is compared with its text, or with its JSON where it is a number, a boolean or null; the
        first 64 such members of a session's metadata can be found. Times are left out themselves.
        """
        check_limit(limit, "limit")
        wanted = SessionFilter(
            agent=agent,
            is_active=is_active,
            created_after=created_after,
            created_before=created_before,
            active_after=active_after,
            active_before=active_before,
            metadata=metadata,
        ).checked()
        await self._core.writer.settle(None)
        return await self._core.session_lists.list_sessions(
            owner, wanted, limit=limit, cursor=cursor, include_deleted=include_deleted, count=count
        )

    async def search(
        self,
        query: str,
        *,
        session_id: str | None = None,
        role: Role | None = None,
        agent: str | None = None,
        after: datetime | None = None,
        before: datetime | None = None,
        limit: int = 20,
        cursor: str | None = None,
        owner: str = "",
    ) -> SearchPage:
        """Return a page of messages that have all words of a query, latest first.

        A query has words, `"words in quotes"` that follow one another, and beginnings of words, `word*`.
        `agent` is the one that holds the session now; `after` and `before` bound the times of messages, the
        first included. Raises SearchOff.
        """
        check_limit(limit, "limit")
        if not self._core.indexer.is_on:
            raise SearchOff
        await self._core.writer.settle(None)
        complete = await self._core.indexer.catch_up(SEARCH_SECONDS)
        wanted = Wanted(owner, session_id, role, agent, after, before)
        return await search(self._core.database, query, wanted, limit, cursor, complete=complete)

    async def get_stats(self, session_id: str, *, owner: str = "") -> SessionStats:
        """Return the size of a session."""
        return await self._core.reader.get_stats(await self._core.settled_key(owner, session_id))

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
        """Return a page, oldest first: messages after `after`, before `before`, or the `last` ones."""
        check_limit(limit if last is None else last, "limit" if last is None else "last")
        check_seq(after, "after")
        check_seq(before, "before")
        key = await self._core.settled_key(owner, session_id)
        return await self._core.reader.list_messages(
            key, after=after, before=before, last=last, limit=limit, role=role
        )

    async def list_numbered_page(
        self, session_id: str, *, page: int, page_size: int, role: Role | None = None, owner: str = ""
    ) -> MessagePage:
        """Return the `page`-th page of `page_size` messages, from 1. Its cost grows with `page`."""
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
        """Read a numbered page in chunks: with large messages it may have gigabytes."""
        check_number(page, "page", 1, MAX_PAGE)
        check_limit(page_size, "page_size")
        key = await self._core.settled_key(owner, session_id)
        return await self._core.reader.read_numbered_page(key, page=page, page_size=page_size, role=role)

    async def get_history(self, session_id: str, *, owner: str = "") -> History:
        """Return the whole conversation in chat form, at one version."""
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
                    current_agent=reading.context.current_agent,
                    agent_history=reading.switches,
                )

    async def read_history(self, session_id: str, *, owner: str = "") -> HistoryReading:
        """Read the conversation in chunks: it may be larger than memory."""
        return await self._core.reader.read_history(await self._core.settled_key(owner, session_id))

    async def get_context(self, session_id: str, *, owner: str = "") -> AgentContext:
        """Return the agent that holds the session, and its metadata."""
        return await self._core.reader.get_context(await self._core.settled_key(owner, session_id))

    async def list_switches(
        self, session_id: str, *, limit: int = 100, before: int | None = None, owner: str = ""
    ) -> SwitchPage:
        """Return a page of handovers, latest first: those before number `before`, if given."""
        check_limit(limit, "limit")
        check_seq(before, "before")
        key = await self._core.settled_key(owner, session_id)
        return await self._core.reader.list_switches(key, limit=limit, before=before)

    async def read_agents(
        self, session_id: str, *, owner: str = ""
    ) -> tuple[AgentContext, list[AgentSwitch]]:
        """The agent context, and the latest handovers up to it, oldest first: 1,000 and 1 MiB at most."""
        return await self._core.reader.read_agents(await self._core.settled_key(owner, session_id))

    async def list_agent_history(self, session_id: str, *, owner: str = "") -> list[AgentSwitch]:
        """Return the latest handovers, at most 1,000 and 1 MiB, oldest first."""
        return await self._core.reader.list_agent_history(await self._core.settled_key(owner, session_id))

    async def list_approvals(
        self,
        session_id: str,
        *,
        status: ApprovalStatus | None = None,
        after: str | None = None,
        limit: int = MAX_LIMIT,
        owner: str = "",
    ) -> ApprovalList:
        """Return a page of approvals, oldest first: those after the one for the call `after`."""
        check_limit(limit, "limit")
        if after is not None:
            check_key(after, "after")
        key = await self._core.settled_key(owner, session_id)
        return await self._core.reader.list_approvals(key, status=status, after=after, limit=limit)

    async def find_approval(self, session_id: str, call_id: str, *, owner: str = "") -> Approval | None:
        """Return the approval for a call, or None."""
        return await self._core.reader.find_approval(await self._core.settled_key(owner, session_id), call_id)

    def export(self, *, owner: str | None = None, session_id: str | None = None) -> AsyncIterator[bytes]:
        """Export as JSON Lines, each with its line break: one session, all of an owner, or everything.

        A session without an owner is one of those that have none. All of it is of one moment, however slowly
        it is read; deleted sessions of an owner are among it. Raises SessionNotFound with the first line.
        """
        if session_id is not None:
            owner, session_id = owner or "", check_key(session_id, "$.session_id")
        return self.exports.lines(ExportScope(owner, session_id))

    def follow(self, session_id: str, *, after: int = 0, owner: str = "") -> Following:
        """Follow a session from after message `after`: stored messages without a gap, then new events.

        Use it as `async with store.follow(...) as follower`, or `async for event in store.follow(...)`.
        """
        check_seq(after, "after")

        @contextlib.asynccontextmanager
        async def open_follower() -> AsyncIterator[SessionFollower]:
            head = await self._core.reader.get_head(await self._core.settled_key(owner, session_id))
            follower = SessionFollower(self._core.reader, head, after)
            with self._core.subscriptions.subscribed(head.id, follower):
                yield follower

        return Following(open_follower)

    async def list_turns(self, session_id: str, *, limit: int = 100, owner: str = "") -> TurnList:
        """Return the turns of a session, latest first."""
        check_limit(limit, "limit")
        key = await self._core.settled_key(owner, session_id)
        found = await self.turns.turn_reader.list_turns(key, limit)
        # Only the last one can run.
        runs = any(turn.status == "running" for turn in found.turns[:1])
        if runs and await self.turns.interrupt_lost_turn(session_id, owner=owner):
            return await self.turns.turn_reader.list_turns(key, limit)
        return found

    async def stop_turn(self, session_id: str, turn_id: str, **options: Unpack[WriteOptions]) -> int:
        """Request that a turn stops; return the session's version. Raises TurnNotFound.

        An ended turn is left as it is.
        """
        key = session_key(session_id, options)
        head, turn = await self.turns.get_turn(key, turn_id)
        if not turn.runs:
            return head.version
        return (await self._core.submitter.write(StopTurn(key, turn_id), TurnWritten, options)).version

    @contextlib.asynccontextmanager
    async def follow_turn(
        self, session_id: str, turn_id: str, *, after: str | None = None, owner: str = ""
    ) -> AsyncIterator[TurnFollower]:
        """Follow a turn from after the event with the id `after`. Raises TurnNotFound, InvalidInput."""
        head, turn = await self.turns.get_turn(SessionKey(owner, session_id), turn_id)
        position = parse_position(after, turn)
        follower = TurnFollower(self.turns.turn_reader, head.id, turn.turn_id, turn.n, position)
        with self._core.subscriptions.subscribed(head.id, follower):
            yield follower

    @contextlib.asynccontextmanager
    async def follow_new_turn(self, started: TurnWritten) -> AsyncIterator[TurnFollower]:
        """Follow a turn that was just started, from its beginning.

        Enter it before the next await: then no event has to be read from the database.
        """
        id, turn_id, n = started.session_db_id, started.turn.turn_id, started.n
        follower = TurnFollower(self.turns.turn_reader, id, turn_id, n, beginning=started.beginning)
        with self._core.subscriptions.subscribed(id, follower):
            yield follower

    async def check_health(self) -> dict[str, str]:
        """Return the state of each part that the store needs: "ok", or what is wrong."""
        return await self._core.check_health()

    def end_streams(self) -> None:
        """End every stream: the server is stopping."""
        self._core.end_streams()

    async def close(self, timeout: float) -> int:
        """Store the pending writes within `timeout` seconds and close; return how many were lost (W11)."""
        self.unstored = await self._core.close(timeout)
        return self.unstored


@contextlib.asynccontextmanager
async def open_store(
    url: str | None = None,
    settings: Settings | None = None,
    metrics: Metrics | None = None,
    *,
    clock: Callable[[], datetime] = utc_now,
) -> AsyncIterator[Store]:
    """Open the store at `url`, by default that of the settings, and close it at the end.

    Raises StartupError.
    """
    settings = settings or Settings()
    database = await open_database(
        settings.db_url if url is None else url,
        migrate=settings.migrate,
        pool_min=settings.pool_min,
        pool_max=settings.pool_max,
        pool_timeout=settings.pool_timeout,
        command_timeout=settings.command_timeout,
        slow_query_ms=settings.slow_query_ms,
    )
    store = Store(Core(database, settings, metrics or Metrics(), clock=clock))
    try:
        yield store
    finally:
        await asyncio.shield(store.close(settings.shutdown_timeout))
