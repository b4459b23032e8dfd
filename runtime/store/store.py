"""Public facade of the store."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Any, Unpack

from msgspec import UNSET, UnsetType, structs

from runtime.config import Settings
from runtime.db.connect import open_database
from runtime.errors import CutNotMeasured
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
    Cleaned,
    Decision,
    Durability,
    History,
    MessagePage,
    Metadata,
    Role,
    Session,
    SessionPage,
    SessionStats,
    SwitchPage,
    TurnList,
    utc_now,
)
from runtime.store.core import Core
from runtime.store.cuts import measure_cut
from runtime.store.follow.session_follower import Following, SessionFollower
from runtime.store.follow.turn_follower import TurnFollower, parse_position
from runtime.store.imports import Imports
from runtime.store.messages import MessageBatch, new_messages
from runtime.store.read.message_pages import MessagesCut, NumberedPage, page_of
from runtime.store.read.reader import HistoryReading
from runtime.store.records import SessionKey
from runtime.store.submission import WriteOptions, session_key
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


class Store:
    """Keeps conversations. Made by `open_store`.

    `turns` is for the turn engine, `tokens` for access control, `imports` for sessions of other databases.

    A write returns after COMMIT (W5) unless it is `buffered`. It raises InvalidInput for bad input, another
    RequestError for what cannot be done, and NotStored for what may be tried again. A read first waits for
    the accepted writes of its session (W6). It raises SessionNotFound, InvalidInput for a page that cannot
    exist, and DatabaseUnavailable for what may be tried again.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self.unstored = 0
        self.turns = TurnStore(core)
        self.tokens = Tokens(core.database, core.clock)
        self.imports = Imports(core)

    async def create_session(
        self,
        session_id: str | None = None,
        *,
        title: str | None = None,
        description: str | None = None,
        metadata: Metadata | JsonObject | None = None,
        agent: str | None = None,
        messages: Sequence[Any] | MessageBatch = (),
        if_missing: bool = False,
        **options: Unpack[WriteOptions],
    ) -> SessionWritten:
        """Make a session, with an id of its own (a UUIDv7) where none is given.

        Raises SessionExists, unless `if_missing` lets one that is there do.
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
        """Change what is given; None takes a title, a description or the metadata away."""
        command = commands.UpdateSession(
            session_key(session_id, options),
            title=title if title is UNSET else optional_text(title, "$.title"),
            description=description if description is UNSET else optional_text(description, "$.description"),
            metadata=metadata if metadata is UNSET else json_text(metadata or {}, "$.metadata"),
            is_active=is_active,
        )
        return await self._core.submitter.write(command, SessionWritten, options)

    async def delete_session(
        self, session_id: str, *, hard: bool = False, **options: Unpack[WriteOptions]
    ) -> SessionDeleted:
        """Delete a session: so that it can be restored, or (`hard`) with all that is in it for good.

        It is gone for good when this is committed. The rows of a large one are erased in portions, which is
        waited for as long as a write may take.
        """
        key = session_key(session_id, options)
        deleted = await self._core.submitter.write(
            commands.DeleteSession(key, hard=hard), SessionDeleted, options
        )
        if hard:
            await self._core.eraser.wait_for(key, self._core.writer.queue.limits.write_timeout)
        return deleted

    async def restore_session(self, session_id: str, **options: Unpack[WriteOptions]) -> SessionWritten:
        """Take a soft deletion back; a session that is not deleted stays as it is."""
        return await self._core.submitter.write(
            commands.RestoreSession(session_key(session_id, options)), SessionWritten, options
        )

    async def append_messages(
        self,
        session_id: str,
        messages: Sequence[Any] | MessageBatch,
        *,
        durability: Durability | None = None,
        **options: Unpack[WriteOptions],
    ) -> Appended | Accepted:
        """Add messages, dicts in chat-completion form with any other fields: all, or none."""
        command = commands.AppendMessages(session_key(session_id, options), new_messages(messages))
        return await self._core.submitter.write_or_accept(command, Appended, durability, options)

    async def replace_messages(
        self,
        session_id: str,
        messages: Sequence[Any] | MessageBatch,
        *,
        create: bool = False,
        durability: Durability | None = None,
        **options: Unpack[WriteOptions],
    ) -> Replaced | Accepted:
        """Make this the history, in one step; a beginning that is the same is kept as it is.

        With `create` a session that is missing is made.
        """
        command = commands.ReplaceMessages(session_key(session_id, options), new_messages(messages), create)
        return await self._core.submitter.write_or_accept(command, Replaced, durability, options)

    async def truncate_messages(
        self, session_id: str, *, after: int, **options: Unpack[WriteOptions]
    ) -> Truncated:
        """Take away the messages that follow number `after`. Their numbers are not used again."""
        check_seq(after, "$.after")
        key = session_key(session_id, options)
        request = await self._core.submitter.request(commands.TruncateMessages(key, after), options)
        while True:
            try:
                return await self._core.submitter.submit(request, Truncated, options)
            except CutNotMeasured:
                # It is counted before the writer is asked again, which may take a while. The count is worth
                # nothing after another cut.
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
        """Hand the conversation over; to the agent that holds it already changes nothing."""
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
        """Let a tool call wait for a person, for `expires_in` seconds or for ever. Raises ApprovalExists."""
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
        """Decide a waiting tool call, once; the same decision again answers the same.

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
        """Take an approval away. Raises ApprovalNotFound."""
        command = commands.DeleteApproval(session_key(session_id, options), check_key(call_id, "$.call_id"))
        return await self._core.submitter.write(command, ApprovalDeleted, options)

    async def cleanup(self, *, max_age_hours: float = 24, hard_delete_after_days: float = 30) -> Cleaned:
        """Delete sessions idle for longer, erase those deleted longer ago, of every owner.

        Forgets old idempotency keys and events of turns too. Works in small transactions.
        """
        return await self._core.cleanup.clean(max_age_hours, hard_delete_after_days)

    async def get_session(self, session_id: str, *, owner: str = "") -> Session:
        """The session."""
        return await self._core.reader.get_session(await self._core.settled_key(owner, session_id))

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
        await self._core.writer.settle(None)
        return await self._core.reader.list_sessions(
            owner, limit=limit, cursor=cursor, include_deleted=include_deleted, count=count
        )

    async def get_stats(self, session_id: str, *, owner: str = "") -> SessionStats:
        """What a session has grown to."""
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
        """A page of messages, oldest first: behind `after`, up to `before`, or the `last` ones."""
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
        key = await self._core.settled_key(owner, session_id)
        return await self._core.reader.read_numbered_page(key, page=page, page_size=page_size, role=role)

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
        return await self._core.reader.read_history(await self._core.settled_key(owner, session_id))

    async def get_context(self, session_id: str, *, owner: str = "") -> AgentContext:
        """Which agent holds the session."""
        return await self._core.reader.get_context(await self._core.settled_key(owner, session_id))

    async def list_switches(
        self, session_id: str, *, limit: int = 100, before: int | None = None, owner: str = ""
    ) -> SwitchPage:
        """Handovers, latest first: those before number `before`, where it is given."""
        check_limit(limit, "limit")
        check_seq(before, "before")
        key = await self._core.settled_key(owner, session_id)
        return await self._core.reader.list_switches(key, limit=limit, before=before)

    async def list_agent_history(self, session_id: str, *, owner: str = "") -> list[AgentSwitch]:
        """The latest handovers, 1,000 and 1 MiB at most, in the order in which they happened."""
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
        """A page of a session's approvals, oldest first: behind the one for the call `after`."""
        check_limit(limit, "limit")
        if after is not None:
            check_key(after, "after")
        key = await self._core.settled_key(owner, session_id)
        return await self._core.reader.list_approvals(key, status=status, after=after, limit=limit)

    async def find_approval(self, session_id: str, call_id: str, *, owner: str = "") -> Approval | None:
        """The approval for a call, if there is one."""
        return await self._core.reader.find_approval(await self._core.settled_key(owner, session_id), call_id)

    def follow(self, session_id: str, *, after: int = 0, owner: str = "") -> Following:
        """Follow a session from after message `after`: its messages without a gap, then what comes.

        Use it as `async with store.follow(...) as follower`, or `async for event in store.follow(...)`.
        """
        check_seq(after, "after")

        async def open_follower() -> SessionFollower:
            head = await self._core.reader.get_head(await self._core.settled_key(owner, session_id))
            return SessionFollower(self._core.reader, head, after)

        return Following(open_follower, self._core.subscriptions)

    async def list_turns(self, session_id: str, *, limit: int = 100, owner: str = "") -> TurnList:
        """The turns of a session, latest first."""
        check_limit(limit, "limit")
        key = await self._core.settled_key(owner, session_id)
        found = await self.turns.turn_reader.list_turns(key, limit)
        # Only the last one can run.
        runs = any(turn.status == "running" for turn in found.turns[:1])
        if runs and await self.turns.interrupt_lost_turn(session_id, owner=owner):
            return await self.turns.turn_reader.list_turns(key, limit)
        return found

    async def stop_turn(self, session_id: str, turn_id: str, **options: Unpack[WriteOptions]) -> int:
        """Ask for a turn to be stopped; return the session's version. Raises TurnNotFound.

        A turn that has ended stays as it is.
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
        """Follow a turn that has just been started, from its beginning.

        To be entered before anything else is awaited: then nothing has to be read.
        """
        id, turn_id, n = started.session_db_id, started.turn.turn_id, started.n
        follower = TurnFollower(self.turns.turn_reader, id, turn_id, n, beginning=started.beginning)
        with self._core.subscriptions.subscribed(id, follower):
            yield follower

    async def check_health(self) -> dict[str, str]:
        """The parts that the store needs, each with "ok" or what is wrong."""
        return await self._core.check_health()

    def end_streams(self) -> None:
        """End every stream: the server is stopping."""
        self._core.end_streams()

    async def close(self, timeout: float) -> int:
        """Store what waits, within `timeout` seconds, and close; return the number of lost writes (W11)."""
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
    """Open the store at `url`, or else at the one of the settings, and close it at the end.

    Raises StartupError.
    """
    settings = settings or Settings()
    database = await open_database(
        url or settings.db_url,
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
