"""A session as plain data: what the model holds, and what may be done to its messages."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Raw, structs

from runtime.models import AgentContext, AgentSwitch, Approval, ForkOrigin, Session, Turn, TurnStatus
from runtime.store.messages import NewMessage
from runtime.store.records import SessionKey
from runtime.store.write.commands import Lease
from runtime.store.write.outcomes import Receipt, SessionWritten


class Refusal(Exception):
    """A request that cannot be done; its text is the code of the error."""


@dataclass(frozen=True)
class StoredMessage:
    """A message where it stands."""

    seq: int
    timestamp: datetime
    message: NewMessage


@dataclass
class StoredTurn:
    """A turn, and its events by number: of text the text, of all else what it says."""

    lease: Lease
    agent: str
    started_at: datetime
    status: TurnStatus = "running"
    ended_at: datetime | None = None
    error: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    beat: int = 0
    stop_requested: bool = False
    events: dict[int, tuple[str, Any]] = field(default_factory=dict)
    events_kept: bool = True

    @property
    def position(self) -> tuple[int, int]:
        """The number of the last event, and the characters in it if it is text."""
        last = max(self.events)
        kind, data = self.events[last]
        return last, len(data) if kind == "text" else 0

    def turn(self) -> Turn:
        return Turn(
            turn_id=self.lease.turn_id,
            status=self.status,
            agent=self.agent,
            started_at=self.started_at,
            ended_at=self.ended_at,
            error=value(self.error),
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
        )


@dataclass
class Conversation:
    """A session and everything in it. `number` tells it from an erased one of the same name."""

    number: int
    key: SessionKey
    created_at: datetime
    last_activity: datetime
    title: str | None = None
    description: str | None = None
    metadata: str = "{}"
    is_active: bool = True
    deleted_at: datetime | None = None
    forked_from: ForkOrigin | None = None
    version: int = 0
    cut_version: int = 0
    changed_version: int = 0
    last_seq: int = 0
    messages: list[StoredMessage] = field(default_factory=list)
    agent: str = "orchestrator"
    context_metadata: str = "{}"
    context_updated_at: datetime | None = None
    switches: list[AgentSwitch] = field(default_factory=list)
    approvals: dict[str, Approval] = field(default_factory=dict)
    turns: list[StoredTurn] = field(default_factory=list)

    @property
    def titled_by(self) -> StoredMessage | None:
        """The message that an untitled session is called after."""
        return next((each for each in self.messages if each.message.title is not None), None)

    def session(self) -> Session:
        called = self.title or (self.titled_by.message.title if self.titled_by else None)
        return Session(
            session_id=self.key.session_id,
            title=value(called),
            description=value(self.description),
            encoded_metadata=Raw(self.metadata),
            created_at=self.created_at,
            last_activity=self.last_activity,
            is_active=self.is_active and self.deleted_at is None,
            deleted_at=self.deleted_at,
            version=self.version,
            last_seq=self.last_seq,
            message_count=len(self.messages),
            current_agent=self.agent,
            forked_from=self.forked_from,
        )

    def context(self) -> AgentContext:
        return AgentContext(
            session_id=self.key.session_id,
            version=self.version,
            current_agent=self.agent,
            switch_count=len(self.switches),
            created_at=self.created_at,
            updated_at=self.context_updated_at or self.created_at,
            encoded_metadata=Raw(self.context_metadata),
        )

    def tokens(self) -> int:
        return sum(each.message.token_count or 0 for each in self.messages)


def value(text: str | None) -> Any:
    """The value of a JSON text; None where there is none."""
    return None if text is None else json.loads(text)


def merged(stored: str, patch: str) -> str:
    """Metadata after a patch, by the pseudocode of RFC 7396; null takes all away."""

    def apply(target: Any, change: Any) -> Any:
        if not isinstance(change, dict):
            return change
        if not isinstance(target, dict):
            target = {}
        for name, new in change.items():
            if new is None:
                target.pop(name, None)
            else:
                target[name] = apply(target.get(name), new)
        return target

    whole = apply(json.loads(stored), json.loads(patch)) or {}
    return msgspec.json.encode(whole).decode()


def written(session: Conversation, *, created: bool = False) -> SessionWritten:
    return SessionWritten(
        session_id=session.key.session_id,
        version=session.version,
        session=session.session(),
        created=created,
    )


def add(session: Conversation, messages: tuple[NewMessage, ...], at: datetime) -> list[Receipt]:
    receipts = []
    for message in messages:
        session.last_seq += 1
        stored = StoredMessage(session.last_seq, message.timestamp or at, message)
        session.messages.append(stored)
        receipts.append(Receipt(stored.seq, stored.timestamp))
    return receipts


def agent_at(session: Conversation, time: datetime | None) -> tuple[str, list[AgentSwitch]]:
    """The agent that held a session at a time, and the switches until then."""
    until = [n for n, each in enumerate(session.switches, 1) if time is not None and each.switched_at <= time]
    switches = session.switches[: max(until, default=0)]
    if switches:
        return switches[-1].to_agent, switches
    return (session.switches[0].from_agent or "") if session.switches else session.agent, []


def cut(session: Conversation, kept: int) -> int:
    """Keep so many messages; how many went."""
    removed = len(session.messages) - kept
    if removed:
        del session.messages[kept:]
        session.cut_version = session.version + 1
    return removed


def is_same(stored: StoredMessage, message: NewMessage) -> bool:
    """Whether sending this again would change nothing; who names no time means any."""
    if message.timestamp not in (None, stored.timestamp):
        return False
    return structs.replace(stored.message, timestamp=None) == structs.replace(message, timestamp=None)
