"""Public facade of the store: its writing methods, which hand commands to the writer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, TypedDict, TypeVar, Unpack

from msgspec import UNSET, UnsetType, structs

from runtime.db.database import Database
from runtime.errors import (
    CutNotMeasured,
    DatabaseError,
    DatabaseUnavailable,
    KeyReused,
    SessionNotFound,
    Unconfirmed,
)
from runtime.models import DEFAULT_AGENT, MAX_EXPIRES_IN, Cleaned, Decision, Durability, Metadata
from runtime.store import commands
from runtime.store.cleanup import clean
from runtime.store.commands import (
    MANY_MESSAGES,
    Accepted,
    Appended,
    ApprovalDeleted,
    ApprovalWritten,
    Command,
    ContextWritten,
    IdempotencyKey,
    Lease,
    Outcome,
    Replaced,
    Request,
    SessionDeleted,
    SessionKey,
    SessionWritten,
    Switched,
    Truncated,
    fingerprint,
    messages_of,
    weight,
)
from runtime.store.completing import complete, is_large
from runtime.store.cuts import measure_cut
from runtime.store.eraser import Eraser
from runtime.store.messages import MessageBatch, new_messages
from runtime.store.reader import Reader
from runtime.store.steady_clock import SteadyClock
from runtime.store.turn_commands import StartTurn
from runtime.store.validation import (
    JsonObject,
    check_key,
    check_number,
    check_seq,
    json_list,
    json_text,
    optional_text,
)
from runtime.store.writer import Writer

# Seconds between two tries to read what belongs to the reply to a write.
COMPLETE_PAUSE = 0.1

OutcomeT = TypeVar("OutcomeT", bound=Outcome)


class WriteOptions(TypedDict, total=False):
    """What every write takes: whose session it is, a key that makes a repeat harmless (W12), and the
    version that the session must be at.

    `make_room` is awaited before a large part of the outcome is read, of a body's size at most.
    """

    owner: str
    idempotency_key: str | None
    if_match: int | None
    make_room: Callable[[], Awaitable[None]]


class Writes:
    """Every write returns after COMMIT (W5) unless it is a `buffered` one.

    It raises InvalidInput for what does not fit, another RequestError for what cannot be done, and
    NotStored for what may be tried again.
    """

    _database: Database
    _reader: Reader
    _writer: Writer
    _eraser: Eraser
    _durability: Durability
    _events_kept: float
    _clock: Callable[[], datetime]
    _steady: SteadyClock
    _make_id: Callable[[datetime], str]

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
            session_key(session_id, options)
            if session_id is not None
            else SessionKey(options.get("owner", ""), ""),
            title=optional_text(title, "$.title"),
            description=optional_text(description, "$.description"),
            metadata=json_text(metadata or {}, "$.metadata"),
            agent=DEFAULT_AGENT if agent is None else check_key(agent, "$.agent"),
            messages=new_messages(messages, "$.messages"),
            if_missing=if_missing,
        )
        return await self._write(command, SessionWritten, options)

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
        return await self._write(command, SessionWritten, options)

    async def delete_session(
        self, session_id: str, *, hard: bool = False, **options: Unpack[WriteOptions]
    ) -> SessionDeleted:
        """Delete a session: so that it can be restored, or (`hard`) with all that is in it for good.

        It is gone for good when this is committed. The rows of a large one are erased in portions, which is
        waited for as long as a write may take.
        """
        key = session_key(session_id, options)
        deleted = await self._write(commands.DeleteSession(key, hard=hard), SessionDeleted, options)
        if hard:
            await self._eraser.wait_for(key, self._writer.queue.limits.write_timeout)
        return deleted

    async def restore_session(self, session_id: str, **options: Unpack[WriteOptions]) -> SessionWritten:
        """Take a soft deletion back; a session that is not deleted stays as it is."""
        return await self._write(
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
        if self._is_buffered(durability, options):
            return await self._accept(command, len(command.messages), options)
        return await self._write(command, Appended, options)

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
        if self._is_buffered(durability, options):
            return await self._accept(command, len(command.messages), options)
        return await self._write(command, Replaced, options)

    async def truncate_messages(
        self, session_id: str, *, after: int, **options: Unpack[WriteOptions]
    ) -> Truncated:
        """Take away the messages that follow number `after`. Their numbers are not used again."""
        check_seq(after, "$.after")
        key = session_key(session_id, options)
        request = await self._request(commands.TruncateMessages(key, after), options)
        while True:
            try:
                return await self._submit(request, Truncated, options)
            except CutNotMeasured:
                # It is counted before the writer is asked again, which may take a while. The count is worth
                # nothing after another cut.
                head = await self._reader.find_head(key)
                measured = None if head is None else await measure_cut(self._database, head, after)
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
        return await self._write(command, Switched, options)

    async def update_context(
        self, session_id: str, metadata: Metadata | JsonObject, **options: Unpack[WriteOptions]
    ) -> ContextWritten:
        """Set the metadata of the agent context."""
        command = commands.UpdateContext(session_key(session_id, options), json_text(metadata, "$.metadata"))
        return await self._write(command, ContextWritten, options)

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
        return await self._write(command, ApprovalWritten, options)

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
        return await self._write(command, ApprovalWritten, options)

    async def delete_approval(
        self, session_id: str, call_id: str, **options: Unpack[WriteOptions]
    ) -> ApprovalDeleted:
        """Take an approval away. Raises ApprovalNotFound."""
        command = commands.DeleteApproval(session_key(session_id, options), check_key(call_id, "$.call_id"))
        return await self._write(command, ApprovalDeleted, options)

    async def cleanup(self, *, max_age_hours: float = 24, hard_delete_after_days: float = 30) -> Cleaned:
        """Delete sessions idle for longer, erase those deleted longer ago, of every owner.

        Forgets old idempotency keys and events of turns too. Works in small transactions.
        """
        return await clean(
            self._database,
            self._writer,
            self._eraser,
            self._clock(),
            self._steady,
            max_age_hours,
            hard_delete_after_days,
            self._events_kept,
        )

    async def _write(self, command: Command, kind: type[OutcomeT], options: WriteOptions) -> OutcomeT:
        return await self._submit(await self._request(command, options), kind, options)

    async def _submit(self, request: Request, kind: type[OutcomeT], options: WriteOptions) -> OutcomeT:
        outcome = await self._writer.submit(request)
        assert isinstance(outcome, kind), f"a {type(request.command).__name__} ended in {outcome!r}"
        if not is_large(outcome):
            return outcome
        if "make_room" in options:
            await options["make_room"]()
        # By the id of the outcome: that of a repeat is the one that was made for the first request.
        return await self._complete(SessionKey(request.key.owner, outcome.session_id), outcome)

    async def _complete(self, key: SessionKey, outcome: OutcomeT) -> OutcomeT:
        """Read what the outcome leaves out, for as long as a write may take."""
        deadline = asyncio.get_running_loop().time() + self._writer.queue.limits.write_timeout
        while True:
            try:
                return await complete(self._reader, key, outcome)
            except DatabaseError as error:
                if asyncio.get_running_loop().time() < deadline and isinstance(error, DatabaseUnavailable):
                    await asyncio.sleep(COMPLETE_PAUSE)
                    continue
                # It is not said that nothing was stored: a repeat under the same key finds it.
                text = f"this is stored, but the reply to it could not be read: {error}"
                raise Unconfirmed(text) from error

    async def _request(self, command: Command, options: WriteOptions) -> Request:
        at = self._clock()
        key = command.key if command.key.session_id else SessionKey(command.key.owner, self._make_id(at))
        name = options.get("idempotency_key")
        if name is not None:
            check_key(name, "idempotency_key")
        size, digest = await _measure(command, keyed=name is not None)
        idempotency = None if name is None else IdempotencyKey(name, digest)
        lease = None
        if isinstance(command, StartTurn):
            lease = Lease(self._make_id(at), self._database.instance)
        return Request(command, key, at, options.get("if_match"), idempotency, lease, size)

    def _is_buffered(self, durability: Durability | None, options: WriteOptions) -> bool:
        """W5. A version can only be compared in the transaction: who names one waits for the answer."""
        chosen = durability or self._durability
        return chosen == "buffered" and options.get("if_match") is None

    async def _accept(self, command: Command, count: int, options: WriteOptions) -> Accepted:
        """Acknowledge before storing (W5), where nothing that is known speaks against it."""
        request = await self._request(command, options)
        if await self._is_stored(request):
            return Accepted(request.key.session_id, count, replayed=True)
        if self._writer.queue.find_accepted(request.key) is None:
            await self._check_target(request)
        # From here on nothing is waited for: what is found waiting still waits when this joins it.
        if self._is_accepted(request):
            return Accepted(request.key.session_id, count, replayed=True)
        self._writer.accept(request)
        return Accepted(request.key.session_id, count)

    async def _check_target(self, request: Request) -> None:
        """Refuse what is sure to fail. Raises SessionNotFound."""
        makes = isinstance(request.command, commands.ReplaceMessages) and request.command.create
        head = await self._reader.find_head(request.key)
        if (head is None and not makes) or (head is not None and head.deleted_at is not None):
            raise SessionNotFound(request.key.session_id, deleted=head is not None)

    async def _is_stored(self, request: Request) -> bool:
        """W12: whether this is the repeat of a request that is stored."""
        if request.idempotency is None:
            return False
        names = json_list([(request.key.owner, request.idempotency.key)])
        rows = await self._database.fetch("list_idempotency_keys", names)
        for row in rows:
            _check_same(request.idempotency, row["fingerprint"])
        return bool(rows)

    def _is_accepted(self, request: Request) -> bool:
        """W12: whether this is the repeat of a request that was accepted and waits to be stored.

        One that somebody waits for is no such thing: it may still fail.
        """
        if request.idempotency is None:
            return False
        earlier = self._writer.queue.find_key(request.key.owner, request.idempotency.key)
        if earlier is None or earlier.request.idempotency is None:
            return False
        _check_same(request.idempotency, earlier.request.idempotency.fingerprint)
        return earlier.deadline is None


async def _measure(command: Command, *, keyed: bool) -> tuple[int, str]:
    """The weight of a command and, where it is `keyed`, its fingerprint."""

    def measure() -> tuple[int, str]:
        return weight(command), fingerprint(command) if keyed else ""

    if len(messages_of(command)) <= MANY_MESSAGES:
        return measure()
    return await asyncio.to_thread(measure)


def _check_same(key: IdempotencyKey, fingerprint: str) -> None:
    if key.fingerprint != fingerprint:
        raise KeyReused(key.key)


def session_key(session_id: str, options: WriteOptions) -> SessionKey:
    """The key of a session that a caller names. Raises InvalidInput."""
    return SessionKey(options.get("owner", ""), check_key(session_id, "$.session_id"))
