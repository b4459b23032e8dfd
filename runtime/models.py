"""Public models of conversations. All are frozen; times are aware and in UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypedDict

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

DEFAULT_AGENT = "orchestrator"

# The largest sequence number that both databases can hold, the most entries of a page, and the highest page
# number.
MAX_SEQ, MAX_LIMIT, MAX_PAGE = 2**63 - 1, 1000, 2**31 - 1
# The longest that an approval may wait, in seconds: ten years.
MAX_EXPIRES_IN = 10 * 366 * 86_400

Committed = Literal["committed"]
Buffered = Literal["buffered"]
Durability = Literal["committed", "buffered"]
Role = Literal["system", "developer", "user", "assistant", "tool"]
Decision = Literal["approve", "edit", "reject"]
ApprovalStatus = Literal["pending", "approved", "edited", "rejected", "expired"]
TurnMessageType = Literal["user_message", "tool_result", "switch_agent", "hitl_decision"]
Scope = Literal["read", "write", "admin"]
TurnStatus = Literal["running", "completed", "stopped", "failed", "interrupted"]

# A key identifies a session, a call or an agent. It has no control characters (C0, DEL and C1) and no
# surrogates. Python's $ also matches before a final line feed: hence (?!\n).
KEY_PATTERN = r"^[^\x00-\x1f\x7f-\x9f\ud800-\udfff]+$(?!\n)"
MAX_KEY = 255
Key = Annotated[str, Meta(min_length=1, max_length=MAX_KEY, pattern=KEY_PATTERN)]
# A title, a description, a reason or feedback. Bounded, because a list has up to a thousand of them.
Text = Annotated[str, Meta(max_length=65_536)]
Metadata = dict[str, Any]
Time = Annotated[datetime, Meta(tz=True)]
Seq = Annotated[int, Meta(ge=0, le=MAX_SEQ)]
Limit = Annotated[int, Meta(ge=1, le=MAX_LIMIT)]
PageNumber = Annotated[int, Meta(ge=1, le=MAX_PAGE)]
TokenCount = Annotated[int, Meta(ge=0, le=2**31 - 1)]


# A value as the JSON text that is stored; replies contain it unchanged.
EncodedValue = msgspec.Raw
EncodedObject = Annotated[msgspec.Raw, Meta(extra_json_schema={"type": "object"})]
# float_hook: a number too large for a float becomes infinite, and a decoding is 9 µs faster.
decode_json = msgspec.json.Decoder(float_hook=float).decode

# Replaces a large text in an outcome: the text is read from the database where it is needed.
LEFT_OUT = msgspec.Raw(b"")


def is_left_out(encoded: msgspec.Raw) -> bool:
    """Whether the text is left out; no JSON text is empty."""
    return not len(memoryview(encoded))


class ForkOrigin(Struct, frozen=True):
    """The session that another one was copied from, and the number of the last message that was copied."""

    session_id: str
    seq: int


class Session(Struct, frozen=True, kw_only=True, rename={"encoded_metadata": "metadata"}):
    """A conversation. `last_seq` is the highest sequence number ever assigned in it; `id` is `session_id`."""

    id: str = ""
    session_id: str
    title: str | None
    description: str | None
    encoded_metadata: EncodedObject
    created_at: datetime
    last_activity: datetime
    is_active: bool
    deleted_at: datetime | None
    version: int
    last_seq: int
    message_count: int
    current_agent: str
    forked_from: ForkOrigin | None = None

    def __post_init__(self) -> None:
        # Also one that was stored under an idempotency key before the field was there.
        msgspec.structs.force_setattr(self, "id", self.session_id)

    @property
    def metadata(self) -> Metadata:
        """The metadata decoded."""
        return _object(self.encoded_metadata)


def _object(encoded: msgspec.Raw) -> Metadata:
    value: Metadata = decode_json(encoded)
    return value


class Token(Struct, frozen=True):
    """Authenticates a program as its owner. Each scope includes the ones before it: `read`, `write`, `admin`.

    `admin` allows what concerns all owners, such as the cleanup, and acting for another owner.
    """

    id: str
    name: str
    owner: str
    scope: Scope
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    def is_valid(self, now: datetime) -> bool:
        """Whether the token is neither revoked nor expired at this time."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class SessionPage(Struct, frozen=True):
    """Sessions, latest activity first. `next_cursor` is the cursor of the next page."""

    sessions: list[Session]
    next_cursor: str | None
    total: int | UnsetType = UNSET


class Owner(Struct, frozen=True, omit_defaults=True):
    """An owner of sessions: how many, how many are deleted and can be restored, and the messages of both.

    With `at_least` the owner has more sessions than are counted for a page: the numbers are lower bounds.
    """

    owner: str
    sessions: int
    deleted_sessions: int
    messages: int
    last_activity: datetime
    at_least: bool = False


class OwnerPage(Struct, frozen=True):
    """Owners in the order of their names. `next_cursor` is the cursor of the next page."""

    owners: list[Owner]
    next_cursor: str | None


class ErasedOwner(Struct, frozen=True):
    """How many sessions, messages and access tokens of an owner were erased."""

    owner: str
    sessions: int
    messages: int
    tokens: int


class SessionStats(Struct, frozen=True):
    """The size of a session. `total_tokens` is the sum of its messages' token counts."""

    session_id: str
    version: int
    message_count: int
    total_tokens: int
    last_message_at: datetime | None
    created_at: datetime
    last_activity: datetime


class MessageDict(TypedDict, total=False):
    """A message to store, in chat-completion form. `role` is required; other fields are kept as they are."""

    role: Role
    content: str | list[Any] | None
    name: str | None
    tool_call_id: str | None
    tool_calls: list[Any] | None
    token_count: int | None
    metadata: Metadata | None
    timestamp: datetime | str | None


class Message(Struct, frozen=True, omit_defaults=True):
    """The known fields of a stored message. It may have others, which are kept as they were sent."""

    seq: int
    role: Role
    content: str | list[Any] | None
    timestamp: datetime
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[Any] | None = None
    token_count: int | None = None
    metadata: Metadata | None = None


class MessagePage(Struct, frozen=True):
    """Messages, oldest first, each as the JSON of a `Message` with all of its fields.

    `more` is true if messages follow in the direction of reading. `last_seq` and `version` are those of the
    session when the page was read.
    """

    session_id: str
    seqs: list[int]
    encoded: list[msgspec.Raw]
    more: bool
    last_seq: int
    version: int

    @property
    def first_seq(self) -> int | None:
        """The sequence number of the first message; None on an empty page."""
        return self.seqs[0] if self.seqs else None

    @property
    def end_seq(self) -> int | None:
        """The sequence number of the last message; None on an empty page."""
        return self.seqs[-1] if self.seqs else None

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages decoded, one dict each."""
        return [decode_json(raw) for raw in self.encoded]


class History(Struct, frozen=True):
    """A whole conversation in chat-completion form, each message as its JSON.

    `agent_history` has the latest handovers, at most 1,000 and 1 MiB, oldest first.
    """

    session_id: str
    version: int
    encoded: list[msgspec.Raw]
    message_count: int
    last_activity: datetime
    current_agent: str
    agent_history: list[AgentSwitch]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages decoded, one dict each."""
        return [decode_json(raw) for raw in self.encoded]


class AgentContext(Struct, frozen=True, rename={"encoded_metadata": "metadata"}):
    """The agent that holds a session, and its metadata. `version` is the session's."""

    session_id: str
    version: int
    current_agent: str
    switch_count: int
    created_at: datetime
    updated_at: datetime
    encoded_metadata: EncodedObject

    @property
    def metadata(self) -> Metadata:
        """The metadata decoded."""
        return _object(self.encoded_metadata)


class AgentSwitch(Struct, frozen=True, rename={"encoded_metadata": "metadata"}):
    """One handover. `id` is its number within the session, from 1. The first agent has no `from_agent`."""

    id: int
    from_agent: str | None
    to_agent: str
    switched_at: datetime
    reason: str | None
    encoded_metadata: EncodedObject

    @property
    def metadata(self) -> Metadata:
        """The metadata decoded."""
        return _object(self.encoded_metadata)


class SwitchPage(Struct, frozen=True):
    """Handovers of a session, latest first. `next_before` is the `before` of the next page."""

    session_id: str
    version: int
    switches: list[AgentSwitch]
    next_before: int | None


class SearchHit(Struct, frozen=True):
    """A message that a search found.

    `snippet` is a part of its text, of at most 200 characters; `matches` are where matches start and end in
    it, in characters (Unicode code points).
    """

    session_id: str
    title: str | None
    seq: int
    role: Role
    timestamp: datetime
    snippet: str
    matches: list[tuple[int, int]]


class SearchPage(Struct, frozen=True):
    """Hits, latest first. `next_cursor` is the `cursor` of the next page; a page may end before its limit.

    `complete` is false while stored messages are not indexed yet: those from before an upgrade, or the latest
    ones under a heavy load.
    """

    hits: list[SearchHit]
    next_cursor: str | None
    complete: bool


_ARGUMENTS = {"encoded_arguments": "arguments", "encoded_modified_arguments": "modified_arguments"}


class Approval(Struct, frozen=True, rename=_ARGUMENTS):
    """A tool call that waits, or waited, for a person's decision."""

    call_id: str
    session_id: str
    tool_name: str
    encoded_arguments: EncodedValue
    reason: str | None
    status: ApprovalStatus
    created_at: datetime
    expires_at: datetime | None
    decided_at: datetime | None
    encoded_modified_arguments: EncodedValue
    feedback: str | None

    @property
    def arguments(self) -> Any:
        """The arguments decoded."""
        return decode_json(self.encoded_arguments)

    @property
    def modified_arguments(self) -> Any:
        """The arguments that the approver substituted, decoded, or None."""
        return decode_json(self.encoded_modified_arguments)

    def at(self, now: datetime) -> Approval:
        """The approval with its status at a time: a pending one expires without a write."""
        if self.status == "pending" and self.expires_at is not None and self.expires_at <= now:
            return msgspec.structs.replace(self, status="expired")
        return self


class ApprovalList(Struct, frozen=True):
    """Approvals of a session, oldest first. `next_after` is the `after` of the next page."""

    session_id: str
    version: int
    approvals: list[Approval]
    next_after: str | None


class Turn(Struct, frozen=True):
    """One request to an agent and its result. `agent` is the one that answers, or answered last.

    Tokens are those that the model reported. `error` is why the turn failed or was interrupted.
    """

    turn_id: str
    status: TurnStatus
    agent: str
    started_at: datetime
    ended_at: datetime | None
    error: str | None
    input_tokens: int
    output_tokens: int


class TurnList(Struct, frozen=True):
    """Turns of a session, latest first."""

    session_id: str
    version: int
    turns: list[Turn]


class TurnEvent(Struct, frozen=True):
    """An event of a turn: its id, from which a reader can resume, its name, and its data as JSON."""

    id: str
    name: str
    data: msgspec.Raw


class Cleaned(Struct, frozen=True):
    """How many sessions a cleanup deleted (`soft_deleted`), and how many it erased (`hard_deleted`)."""

    soft_deleted: int
    hard_deleted: int


class MessageEvent(Struct, frozen=True):
    """A new message of a followed session, as the JSON of a `Message`."""

    seq: int
    encoded: msgspec.Raw


class ChangedEvent(Struct, frozen=True):
    """Any other change of a followed session; after missed notices `what` names all that may have changed.

    A lone `reset` precedes the session's first message: the message that the reader asked to resume from is
    gone, because the session was erased and created again.
    """

    version: int
    what: list[str]

    @property
    def is_reset(self) -> bool:
        return "reset" in self.what


def utc_now() -> datetime:
    """The current time, aware and in UTC."""
    return datetime.now(UTC)
