"""What callers see of a conversation. Everything is frozen; times are aware and UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

DEFAULT_AGENT = "orchestrator"

# The largest number of a message or a handover that both databases can hold, the most entries of a page, and
# the last of the pages that are numbered.
MAX_SEQ, MAX_LIMIT, MAX_PAGE = 2**63 - 1, 1000, 2**31 - 1
# The longest that an approval may wait, in seconds: ten years.
MAX_EXPIRES_IN = 10 * 366 * 86_400

Durability = Literal["committed", "buffered"]
Role = Literal["system", "developer", "user", "assistant", "tool"]
Decision = Literal["approve", "edit", "reject"]
ApprovalStatus = Literal["pending", "approved", "edited", "rejected", "expired"]
TurnMessageType = Literal["user_message", "tool_result", "switch_agent", "hitl_decision"]
Scope = Literal["read", "write", "admin"]
TurnStatus = Literal["running", "completed", "stopped", "failed", "interrupted"]

# A key: what a session, a call or an agent is known by. No control characters (C0, DEL and C1), and no
# surrogates, which are no characters at all. Python's $ also matches before a last line feed: hence (?!\n).
KEY_PATTERN = r"^[^\x00-\x1f\x7f-\x9f\ud800-\udfff]+$(?!\n)"
MAX_KEY = 255
Key = Annotated[str, Meta(min_length=1, max_length=MAX_KEY, pattern=KEY_PATTERN)]
# What people read beside the messages. A list of a thousand sessions shows as many of them.
Text = Annotated[str, Meta(max_length=65_536)]
Metadata = dict[str, Any]
Time = Annotated[datetime, Meta(tz=True)]
Seq = Annotated[int, Meta(ge=0, le=MAX_SEQ)]
Limit = Annotated[int, Meta(ge=1, le=MAX_LIMIT)]
PageNumber = Annotated[int, Meta(ge=1, le=MAX_PAGE)]
TokenCount = Annotated[int, Meta(ge=0, le=2**31 - 1)]


# A value as the JSON text that is stored: replies give it back as it is.
EncodedValue = msgspec.Raw
EncodedObject = Annotated[msgspec.Raw, Meta(extra_json_schema={"type": "object"})]
# Any number that JSON has is a float for Python: one that is too large is infinite, and 9 µs are saved.
decode_json = msgspec.json.Decoder(float_hook=float).decode


# Stands for a text that a reply does not carry because it is large: it is read where it is needed.
LEFT_OUT = msgspec.Raw(b"")


def is_left_out(encoded: msgspec.Raw) -> bool:
    """Whether the text itself is not here: no JSON is empty."""
    return not len(memoryview(encoded))


class Session(Struct, frozen=True, rename={"encoded_metadata": "metadata"}):
    """A conversation. `last_seq` is the highest sequence number ever given in it."""

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

    @property
    def metadata(self) -> Metadata:
        """The metadata decoded."""
        return _object(self.encoded_metadata)


def _object(encoded: msgspec.Raw) -> Metadata:
    value: Metadata = decode_json(encoded)
    return value


class Token(Struct, frozen=True):
    """Lets a program in as its owner. `read` may look, `write` also change, `admin` also clean up for all."""

    id: str
    name: str
    owner: str
    scope: Scope
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    def is_valid(self, now: datetime) -> bool:
        """Whether it lets anybody in at this time."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class SessionPage(Struct, frozen=True):
    """Sessions, latest activity first. `next_cursor` asks for the page that follows."""

    sessions: list[Session]
    next_cursor: str | None
    total: int | UnsetType = UNSET


class SessionStats(Struct, frozen=True):
    """What a session has grown to. Tokens are those that its messages were sent with."""

    session_id: str
    version: int
    message_count: int
    total_tokens: int
    last_message_at: datetime | None
    created_at: datetime
    last_activity: datetime


class Message(Struct, frozen=True, omit_defaults=True):
    """A stored message, as far as we know its fields; it may carry others, kept as they came."""

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

    `more` says whether messages follow in the direction of reading; `last_seq` and `version` are
    those of the session when the page was read.
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
    """A whole conversation in the form that chat-completion APIs take, each message as its JSON.

    `agent_history` are the latest handovers, 1,000 and 1 MiB at most, in the order in which they happened.
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
    """Which agent holds a session. `version` is the session's."""

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
    """One handover. `id` counts within the session, from 1; `from_agent` is None for the first agent."""

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
    """Handovers of a session, latest first. `next_before` asks for the page that follows."""

    session_id: str
    version: int
    switches: list[AgentSwitch]
    next_before: int | None


_ARGUMENTS = {"encoded_arguments": "arguments", "encoded_modified_arguments": "modified_arguments"}


class Approval(Struct, frozen=True, rename=_ARGUMENTS):
    """A tool call that waits, or waited, for a person."""

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
        """The arguments that an approver put in their place, decoded; None where there are none."""
        return decode_json(self.encoded_modified_arguments)

    def at(self, now: datetime) -> Approval:
        """The approval as it stands at a time: one left pending expires without a write."""
        if self.status == "pending" and self.expires_at is not None and self.expires_at <= now:
            return msgspec.structs.replace(self, status="expired")
        return self


class ApprovalList(Struct, frozen=True):
    """Approvals of a session, oldest first. `next_after` asks for the page that follows."""

    session_id: str
    version: int
    approvals: list[Approval]
    next_after: str | None


class Turn(Struct, frozen=True):
    """What was asked of an agent once, and how that ended. `agent` is the one that answers, or did.

    Tokens are those that the model reported; `error` says why a turn failed or was interrupted.
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
    """Something that happened in a turn: its id to go on from, its name, and its data as JSON."""

    id: str
    name: str
    data: msgspec.Raw


class Cleaned(Struct, frozen=True):
    """How many sessions a cleanup deleted, and how many it erased."""

    soft_deleted: int
    hard_deleted: int


class MessageEvent(Struct, frozen=True):
    """A message that a follower of a session sees, as the JSON of a `Message`."""

    seq: int
    encoded: msgspec.Raw


class ChangedEvent(Struct, frozen=True):
    """Anything else that changed in a session. After a gap `what` names all that may have.

    `reset` is alone in it, and comes before every message of the session: the one that the reader asked to go
    on behind is not there, since the session was erased and made anew.
    """

    version: int
    what: list[str]

    @property
    def is_reset(self) -> bool:
        return "reset" in self.what


def utc_now() -> datetime:
    """The time, aware and in UTC."""
    return datetime.now(UTC)
