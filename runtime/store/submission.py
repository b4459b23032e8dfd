"""Submits commands to the writer: makes requests, and completes their outcomes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypedDict, TypeVar

from msgspec import structs

from runtime.db.database import Database
from runtime.errors import (
    ApprovalNotFound,
    DatabaseError,
    KeyReused,
    SessionNotFound,
    Unconfirmed,
)
from runtime.models import Durability, is_left_out
from runtime.retry import retry_until_available
from runtime.store.messages import MANY_MESSAGES
from runtime.store.read.reader import Reader
from runtime.store.records import SessionKey
from runtime.store.validation import check_key, json_list
from runtime.store.write.commands import (
    Command,
    IdempotencyKey,
    Lease,
    ReplaceMessages,
    Request,
    fingerprint,
    messages_of,
    weight,
)
from runtime.store.write.outcomes import Accepted, ApprovalWritten, ContextWritten, Outcome, SessionWritten
from runtime.store.write.turn_commands import StartTurn
from runtime.store.write.writer import Writer

OutcomeT = TypeVar("OutcomeT", bound=Outcome)


class BufferedOptions(TypedDict, total=False):
    """Options that a buffered write takes.

    `owner` is the owner of the session. `idempotency_key` makes a repeat harmless (W12). `make_room` is
    awaited before the large part of an outcome is read, at most the size of a body.
    """

    owner: str
    idempotency_key: str | None
    make_room: Callable[[], Awaitable[None]]


class WriteOptions(BufferedOptions, total=False):
    """Options that every write takes. `if_match` is the version that the session must have.

    A write with `if_match` is committed at once: the version is compared in the transaction.
    """

    if_match: int | None


def session_key(session_id: str | None, options: WriteOptions) -> SessionKey:
    """The key of the session of a write, with an empty id for a new session.

    Raises InvalidInput for a wrong id, and TypeError for an unknown option.
    """
    if unknown := options.keys() - WriteOptions.__optional_keys__:
        names = ", ".join(repr(name) for name in sorted(unknown))
        raise TypeError(
            f"unexpected keyword argument {names}; every write takes owner, idempotency_key, if_match"
        )
    return SessionKey(
        options.get("owner", ""), "" if session_id is None else check_key(session_id, "$.session_id")
    )


class Submitter:
    """Submits commands to the writer and returns their complete outcomes.

    `durability` is the default for writes that may be buffered (W5).
    """

    def __init__(
        self,
        database: Database,
        writer: Writer,
        reader: Reader,
        durability: Durability,
        clock: Callable[[], datetime],
        make_id: Callable[[datetime], str],
    ) -> None:
        self._database = database
        self._writer = writer
        self._reader = reader
        self._durability = durability
        self._clock = clock
        self._make_id = make_id

    async def write(self, command: Command, kind: type[OutcomeT], options: WriteOptions) -> OutcomeT:
        """Store a command; return its outcome after COMMIT."""
        return await self.submit(await self.request(command, options), kind, options)

    async def request(self, command: Command, options: WriteOptions) -> Request:
        """The request for a command: it adds the time and the ids that planning needs."""
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

    async def submit(self, request: Request, kind: type[OutcomeT], options: WriteOptions) -> OutcomeT:
        """Store a request; return its outcome after COMMIT, with the large part that the plan left out."""
        outcome = await self._writer.submit(request)
        assert isinstance(outcome, kind), f"a {type(request.command).__name__} ended in {outcome!r}"
        if not _is_incomplete(outcome):
            return outcome
        if "make_room" in options:
            await options["make_room"]()
        # The id of the outcome: a replayed one has the id that the first request created.
        return await self._complete(SessionKey(request.key.owner, outcome.session_id), outcome)

    async def _complete(self, key: SessionKey, outcome: OutcomeT) -> OutcomeT:
        """Read the large part of an outcome, with retries within the write timeout."""
        timeout = self._writer.queue.limits.write_timeout
        try:
            return await retry_until_available(
                lambda: _completed(self._reader, key, outcome), timeout, "the reply to a write"
            )
        except DatabaseError as error:
            # The write is stored: a repeat under its key returns the outcome.
            text = f"the write is stored, but its reply could not be read: {error}"
            raise Unconfirmed(text) from error

    async def write_or_accept(
        self, command: Command, kind: type[OutcomeT], durability: Durability | None, options: WriteOptions
    ) -> OutcomeT | Accepted:
        """Store a command, or accept it as a buffered write (W5)."""
        buffered = (durability or self._durability) == "buffered"
        # A version can only be compared in the transaction.
        if not buffered or options.get("if_match") is not None:
            return await self.write(command, kind, options)
        return await self._accept(await self.request(command, options))

    async def _accept(self, request: Request) -> Accepted:
        accepted = Accepted(request.key.session_id, len(messages_of(request.command)))
        if await self._is_stored(request):
            return structs.replace(accepted, replayed=True)
        if self._writer.queue.find_accepted(request.key) is None:
            creates = isinstance(request.command, ReplaceMessages) and request.command.create
            head = await self._reader.find_head(request.key)
            # Refuse a request that is sure to fail.
            if (head is None and not creates) or (head is not None and head.deleted_at is not None):
                raise SessionNotFound(request.key.session_id, deleted=head is not None)
        # No await from here on: a request found in the queue is still there when this one is added.
        if self._is_accepted(request):
            return structs.replace(accepted, replayed=True)
        self._writer.accept(request)
        return accepted

    async def _is_stored(self, request: Request) -> bool:
        """Whether an earlier request under the same idempotency key is stored (W12). Raises KeyReused."""
        if request.idempotency is None:
            return False
        names = json_list([(request.key.owner, request.idempotency.key)])
        rows = await self._database.fetch("list_idempotency_keys", names)
        for row in rows:
            _check_same(request.idempotency, row["fingerprint"])
        return bool(rows)

    def _is_accepted(self, request: Request) -> bool:
        """Whether an earlier request under the same key was accepted and is pending (W12).

        One whose caller waits for COMMIT may still fail and does not count. Raises KeyReused.
        """
        if request.idempotency is None:
            return False
        earlier = self._writer.queue.find_key(request.key.owner, request.idempotency.key)
        if earlier is None or earlier.request.idempotency is None:
            return False
        _check_same(request.idempotency, earlier.request.idempotency.fingerprint)
        return earlier.deadline is None


async def _measure(command: Command, *, keyed: bool) -> tuple[int, str]:
    """The weight of a command in bytes and, if it is `keyed`, its fingerprint."""

    def measure() -> tuple[int, str]:
        return weight(command), fingerprint(command) if keyed else ""

    if len(messages_of(command)) <= MANY_MESSAGES:
        return measure()
    return await asyncio.to_thread(measure)


def _check_same(key: IdempotencyKey, fingerprint: str) -> None:
    if key.fingerprint != fingerprint:
        raise KeyReused(key.key)


def _is_incomplete(outcome: Outcome) -> bool:
    """Whether the plan left out a large part of an outcome (R6)."""
    match outcome:
        case SessionWritten(session=session):
            return is_left_out(session.encoded_metadata)
        case ContextWritten(context=context):
            return is_left_out(context.encoded_metadata)
        case ApprovalWritten(approval=approval):
            return is_left_out(approval.encoded_arguments)
    return False


async def _completed(reader: Reader, key: SessionKey, outcome: OutcomeT) -> OutcomeT:
    """An outcome with its large part as stored now.

    Raises SessionNotFound or ApprovalNotFound if that is deleted by now.
    """
    match outcome:
        case SessionWritten():
            session = await reader.get_session(key)
            return structs.replace(outcome, session=session, version=session.version)
        case ContextWritten():
            context = await reader.get_context(key)
            return structs.replace(outcome, context=context, version=context.version)
        case ApprovalWritten(approval=approval):
            head = await reader.get_head(key)
            found = await reader.find_approval(key, approval.call_id)
            if found is None:
                raise ApprovalNotFound(key.session_id, approval.call_id)
            return structs.replace(outcome, approval=found, version=head.version)
    return outcome
