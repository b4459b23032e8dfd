"""What a caller can ask of the writer, and what comes back.

A command holds the request and nothing else: no clock, no random number. Two requests are the same
request exactly when their commands are equal, which is what an idempotency key is checked by (W12).
Free text and structures stand in it as the JSON text that is stored.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from sys import getsizeof

import msgspec
from msgspec import UNSET, Struct, UnsetType, structs

from runtime.models import DEFAULT_AGENT, Decision
from runtime.store.cuts import MeasuredCut
from runtime.store.messages import MANY_MESSAGES, NewMessage
from runtime.store.records import ApprovalRow, JsonText, SessionKey, SwitchRow

# What is counted for a command beside its texts, in bytes (W9): its session's key as well.
COMMAND_OVERHEAD = 768


class Command(Struct, frozen=True, tag=True):
    """Something to do with one session. An empty session id asks for one to be made."""

    key: SessionKey


class CreateSession(Command, frozen=True):
    """Make the session; where `if_missing`, one that is there already will do."""

    title: JsonText | None = None
    description: JsonText | None = None
    metadata: JsonText = "{}"
    agent: str = DEFAULT_AGENT
    messages: tuple[NewMessage, ...] = ()
    if_missing: bool = False


class UpdateSession(Command, frozen=True):
    """Change what is named; the rest stays."""

    title: JsonText | UnsetType | None = UNSET
    description: JsonText | UnsetType | None = UNSET
    metadata: JsonText | UnsetType = UNSET
    is_active: bool | UnsetType = UNSET


class DeleteSession(Command, frozen=True):
    """Delete the session: so that it can be restored, or for good (`hard`).

    The cleanup sets a condition, which is looked at again under the lock: `idle_since` deletes only a
    session that nothing happened in after, `deleted_since` erases only one deleted no later.
    """

    hard: bool = False
    idle_since: datetime | None = None
    deleted_since: datetime | None = None


class RestoreSession(Command, frozen=True):
    """Take back a soft deletion."""


class AppendMessages(Command, frozen=True):
    """Add messages, all or none."""

    messages: tuple[NewMessage, ...]


class ReplaceMessages(Command, frozen=True):
    """Make this the history. What is stored and the same at its beginning is kept as it is."""

    messages: tuple[NewMessage, ...]
    create: bool = False


class TruncateMessages(Command, frozen=True):
    """Take away what follows a message."""

    after: int


class SwitchAgent(Command, frozen=True):
    """Hand the conversation over."""

    agent: str
    reason: JsonText | None = None
    metadata: JsonText = "{}"


class UpdateContext(Command, frozen=True):
    """Set the metadata of the agent context."""

    metadata: JsonText


class CreateApproval(Command, frozen=True):
    """Let a tool call wait for a person; `expires_in` is in seconds."""

    call_id: str
    tool_name: JsonText
    arguments: JsonText
    reason: JsonText | None = None
    expires_in: float | None = None


class DecideApproval(Command, frozen=True):
    """Decide a waiting tool call."""

    call_id: str
    decision: Decision
    modified_arguments: JsonText | None = None
    feedback: JsonText | None = None


class DeleteApproval(Command, frozen=True):
    """Take an approval away."""

    call_id: str


class ImportSession(Command, frozen=True):
    """Store a session of another database as it was.

    Its times, handovers and approvals are given. `messages` are the first ones, each with its time; they are
    all of them where it `is_whole`. `source` is where it comes from. One of this id that is there stays as it
    is, or gets the messages that it lacks, as by `ImportMessages`.
    """

    source: str
    created_at: datetime
    last_activity: datetime
    context_created_at: datetime
    context_updated_at: datetime
    title: JsonText | None = None
    description: JsonText | None = None
    metadata: JsonText = "{}"
    is_active: bool = True
    deleted_at: datetime | None = None
    agent: str = DEFAULT_AGENT
    switch_count: int = 0
    context_metadata: JsonText = "{}"
    switches: tuple[SwitchRow, ...] = ()
    approvals: tuple[ApprovalRow, ...] = ()
    messages: tuple[NewMessage, ...] = ()
    is_whole: bool = True


class ImportMessages(Command, frozen=True):
    """Add the messages that follow number `after` to a session of which this source gave a part.

    What it has of them is not stored again, and a session of another origin, or a whole one, stays as it is.
    """

    source: str
    after: int
    messages: tuple[NewMessage, ...]
    is_whole: bool


class ForgetOld(Command, frozen=True):
    """Forget idempotency keys and dead writers from before a time, and the events of turns that ended
    before another; concerns no session."""

    before: datetime
    events_before: datetime


class EraseRows(Command, frozen=True):
    """Erase some of the rows, at most so many, that sessions which are gone and cuts have left; concerns no
    session by name."""

    rows: int


def messages_of(command: Command) -> tuple[NewMessage, ...]:
    """The messages that a command would store."""
    messages: tuple[NewMessage, ...] = getattr(command, "messages", ())
    return messages


def weight(command: Command) -> int:
    """About how many bytes a command holds while it waits (W9)."""
    _, *fields = structs.astuple(command)  # The key is counted in the overhead.
    return COMMAND_OVERHEAD + sum(map(_size, fields))


def _size(value: object) -> int:
    if isinstance(value, str):
        return getsizeof(value)
    if isinstance(value, NewMessage):
        return value.size
    if isinstance(value, tuple):
        return sum(map(_size, value))
    return sum(map(_size, structs.astuple(value))) if isinstance(value, Struct) else 0


def fingerprint(command: Command) -> str:
    """What tells one request from another: 128 bits, as 32 hexadecimal digits."""
    messages = messages_of(command)
    if len(messages) <= MANY_MESSAGES:
        return hashlib.blake2b(msgspec.msgpack.encode(command), digest_size=16).hexdigest()
    # Portion by portion: to encode all of them at once would hold everybody up.
    digest = hashlib.blake2b(msgspec.msgpack.encode(structs.replace(command, messages=())), digest_size=16)
    for start in range(0, len(messages), MANY_MESSAGES):
        digest.update(msgspec.msgpack.encode(messages[start : start + MANY_MESSAGES]))
    return digest.hexdigest()


class IdempotencyKey(Struct, frozen=True):
    """The key that a client repeats a request under, and the fingerprint of that request (W12)."""

    key: str
    fingerprint: str


class Lease(Struct, frozen=True):
    """The id that a new turn gets, and the instance that will run it."""

    turn_id: str
    instance: str


class Request(Struct, frozen=True):
    """A command as it is submitted, with all that `plan` may not make for itself.

    `key` names the session also where the command left its id to be made; `lease` is for a turn that
    is to be started; `size` is the weight of the command; `measured` is for a long cut.
    """

    command: Command
    key: SessionKey
    at: datetime
    if_match: int | None = None
    idempotency: IdempotencyKey | None = None
    lease: Lease | None = None
    size: int = COMMAND_OVERHEAD
    measured: MeasuredCut | None = None
