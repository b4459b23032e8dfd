"""Commands that the writer takes, and requests, which add what planning a command needs.

A command holds what a caller asked for, without a time or a random number: a repeated request has an equal
command, by which idempotency keys are checked (W12). The names and the order of the fields are part of the
fingerprints that are stored. Texts and structures are in the JSON text that is stored.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from sys import getsizeof

import msgspec
from msgspec import UNSET, Struct, UnsetType, structs

from runtime.models import DEFAULT_AGENT, Decision, ForkOrigin
from runtime.store.cuts import MeasuredCut
from runtime.store.messages import MANY_MESSAGES, NewMessage
from runtime.store.records import ApprovalRow, JsonText, SessionKey, SwitchRow, TurnRow

# Bytes counted for a command beside its texts (W9), its session's key included.
COMMAND_OVERHEAD = 768
# The key of commands that concern no session.
NO_SESSION = SessionKey("", "")


class Command(Struct, frozen=True, tag=True):
    """A change of one session. An empty session id stands for a new one."""

    key: SessionKey


class CreateSession(Command, frozen=True):
    """Create the session. With `if_missing` an existing one is left as it is."""

    title: JsonText | None = None
    description: JsonText | None = None
    metadata: JsonText = "{}"
    agent: str = DEFAULT_AGENT
    messages: tuple[NewMessage, ...] = ()
    if_missing: bool = False


class UpdateSession(Command, frozen=True):
    """Change the fields that are set. `metadata` is merged (RFC 7396); the text `null` removes all of it."""

    title: JsonText | UnsetType | None = UNSET
    description: JsonText | UnsetType | None = UNSET
    metadata: JsonText | UnsetType = UNSET
    is_active: bool | UnsetType = UNSET


class DeleteSession(Command, frozen=True):
    """Delete the session: so that it can be restored, or for good (`hard`).

    The cleanup sets a condition, which is checked again under the lock: with `idle_since` the session must
    have had no activity since, with `deleted_since` it must have been deleted before.
    """

    hard: bool = False
    idle_since: datetime | None = None
    deleted_since: datetime | None = None


class EraseSession(Command, frozen=True):
    """Delete the session for good, whether or not it is deleted so far. A missing one is left so."""


class RestoreSession(Command, frozen=True):
    """Take back a soft deletion."""


class AppendMessages(Command, frozen=True):
    """Add messages, all or none."""

    messages: tuple[NewMessage, ...]


class ReplaceMessages(Command, frozen=True):
    """Replace the history. Stored messages that equal the beginning of the new history are kept."""

    messages: tuple[NewMessage, ...]
    create: bool = False


class TruncateMessages(Command, frozen=True):
    """Remove the messages after a number."""

    after: int


class SwitchAgent(Command, frozen=True):
    """Hand the conversation over to another agent."""

    agent: str
    reason: JsonText | None = None
    metadata: JsonText = "{}"


class UpdateContext(Command, frozen=True):
    """Set the metadata of the agent context."""

    metadata: JsonText


class CreateApproval(Command, frozen=True):
    """Let a tool call wait for a person's decision, for `expires_in` seconds or without limit."""

    call_id: str
    tool_name: JsonText
    arguments: JsonText
    reason: JsonText | None = None
    expires_in: float | None = None


class DecideApproval(Command, frozen=True):
    """Decide about a waiting tool call."""

    call_id: str
    decision: Decision
    modified_arguments: JsonText | None = None
    feedback: JsonText | None = None


class DeleteApproval(Command, frozen=True):
    """Delete an approval."""

    call_id: str


class NumberedMessage(NewMessage, frozen=True, gc=False, kw_only=True):
    """A message of another database that keeps its number."""

    seq: int


class ImportSession(Command, frozen=True):
    """Store a session of another database as it was.

    Its times, handovers, approvals and turns are given. `messages` are the first ones, each with its time;
    they are all of them where it `is_whole`. `source` is where it comes from. `version` and `last_seq` are
    those of the session when all of it is stored, and until then it is deleted; without a version they are
    counted here. One of this id that is there stays as it is, or gets the messages that it lacks, as by
    `ImportMessages`.
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
    turns: tuple[TurnRow, ...] = ()
    is_bare: bool = False
    messages: tuple[NewMessage, ...] = ()
    is_whole: bool = True
    version: int | None = None
    last_seq: int = 0
    forked_from: ForkOrigin | None = None


class ImportMessages(Command, frozen=True):
    """Add the messages that follow number `after` to a session of which this source gave a part.

    What it has of them is not stored again, and a session of another origin, or a whole one, stays as it is.
    """

    source: str
    after: int
    messages: tuple[NewMessage, ...]
    is_whole: bool
    version: int | None = None
    last_seq: int = 0
    deleted_at: datetime | None = None


class ForgetOld(Command, frozen=True):
    """Delete idempotency keys and rows of dead writers older than `before`, and the events of turns that
    ended before `events_before`. The command concerns no session.
    """

    before: datetime
    events_before: datetime


class EraseRows(Command, frozen=True):
    """Erase at most `rows` rows that deleted sessions and cuts have left. The command names no session."""

    rows: int


class SearchEntry(Struct, frozen=True):
    """The distinct words of a message, a space between them; `first_id` is the first id of its moment."""

    session_db_id: int
    seq: int
    first_id: int
    words: str


class IndexWords(Command, frozen=True):
    """Add entries to the index of words, and note what is done: rows of the queue, or sessions from before.

    `merged_pages` of the index are merged, if any. The command names no session.
    """

    entries: tuple[SearchEntry, ...] = ()
    queue_ids: tuple[int, ...] = ()
    backfilled: tuple[int, int] | None = None
    merged_pages: int = 0


class DeleteKeys(Command, frozen=True):
    """Delete these idempotency keys of an owner. The command names no session."""

    keys: tuple[str, ...]


def is_final(command: Command) -> bool:
    """Whether a command deletes a session for good."""
    return isinstance(command, EraseSession) or (isinstance(command, DeleteSession) and command.hard)


class LabelSessions(Command, frozen=True):
    """Give labels to at most `rows` sessions of an earlier version. The command names no session."""

    rows: int


def messages_of(command: Command) -> tuple[NewMessage, ...]:
    """The messages of a command."""
    messages: tuple[NewMessage, ...] = getattr(command, "messages", ())
    return messages


def weight(command: Command) -> int:
    """The approximate bytes of a pending command (W9)."""
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
    """A hash of a command: 128 bits, as 32 hexadecimal digits."""
    messages = messages_of(command)
    if len(messages) <= MANY_MESSAGES:
        return hashlib.blake2b(msgspec.msgpack.encode(command), digest_size=16).hexdigest()
    # In portions: encoding all of them at once would block the event loop.
    digest = hashlib.blake2b(msgspec.msgpack.encode(structs.replace(command, messages=())), digest_size=16)
    for start in range(0, len(messages), MANY_MESSAGES):
        digest.update(msgspec.msgpack.encode(messages[start : start + MANY_MESSAGES]))
    return digest.hexdigest()


class IdempotencyKey(Struct, frozen=True):
    """The key under which a client may repeat a request, and the request's fingerprint (W12)."""

    key: str
    fingerprint: str


class HiddenCopy(Struct, frozen=True):
    """The messages of a session up to number `through`, copied into a hidden session.

    Valid while `cut_version` is the session's, and while the hidden session is not abandoned.
    """

    session_db_id: int
    source_db_id: int
    cut_version: int
    through: int
    message_count: int
    token_total: int


class Lease(Struct, frozen=True):
    """The id of a new turn, and the instance that will run it."""

    turn_id: str
    instance: str


class Request(Struct, frozen=True):
    """A submitted command, with what `plan` may not produce itself because it is pure.

    `key` has the session's id even if the command leaves it empty. `lease` is for the start of a turn,
    `measured` for a long cut, `copy` for a long fork. `size` is the weight of the command. With
    `result_decides` the result of a tool decides the approval that its call waits for; it is not in the
    command, whose fingerprint must not change.
    """

    command: Command
    key: SessionKey
    at: datetime
    if_match: int | None = None
    idempotency: IdempotencyKey | None = None
    lease: Lease | None = None
    size: int = COMMAND_OVERHEAD
    measured: MeasuredCut | None = None
    copy: HiddenCopy | None = None
    result_decides: bool = False
