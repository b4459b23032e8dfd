"""Reads what happened lately in the sessions of an owner: turns, handovers, approvals and tool results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from msgspec import Struct

from runtime.db.database import Database
from runtime.models import ApprovalStatus, TurnStatus
from runtime.store.read.reader import Reader
from runtime.store.records import SessionKey, decode_optional
from runtime.store.validation import json_list

# The most sessions that are read, entries of each kind, and messages of each session.
SESSIONS, ENTRIES, MESSAGES = 1000, 10_000, 200
# In place of the name of a tool that is missing, or too long to be read.
LONG_NAME = "…"


class EndedTurn(Struct, frozen=True):
    """A turn that has ended: the `n`-th of its session."""

    session_id: str
    n: int
    turn_id: str
    status: TurnStatus
    agent: str
    started_at: datetime
    ended_at: datetime
    error: str | None
    input_tokens: int
    output_tokens: int


class Handover(Struct, frozen=True):
    """A handover: the `n`-th of its session."""

    session_id: str
    n: int
    from_agent: str
    to_agent: str
    at: datetime


class ApprovalEntry(Struct, frozen=True):
    """An approval, without its arguments."""

    session_id: str
    call_id: str
    tool_name: str
    status: ApprovalStatus
    created_at: datetime
    decided_at: datetime | None


class ToolMessage(Struct, frozen=True):
    """A message that calls tools, or the result of a tool."""

    session_id: str
    seq: int
    is_result: bool
    tool_name: str
    failed: bool
    at: datetime


class Activity(Struct, frozen=True):
    """What happened until `read_at`, the latest first in each list."""

    read_at: datetime
    turns: list[EndedTurn]
    switches: list[Handover]
    approvals: list[ApprovalEntry]
    tool_messages: list[ToolMessage]


class ActivityReader:
    """Reads activity. At most 1,000 sessions, those of latest activity, and 10,000 entries of each kind."""

    def __init__(self, database: Database, reader: Reader, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._reader = reader
        self._clock = clock

    async def of_owner(self, owner: str) -> Activity:
        """The activity in the sessions of an owner."""
        rows = await self._database.fetch("list_recent_sessions", owner, SESSIONS)
        return await self._read({row["id"]: row["session_id"] for row in rows}, MESSAGES)

    async def of_session(self, session_id: str, *, owner: str = "") -> Activity:
        """The activity in a session. Raises SessionNotFound."""
        head = await self._reader.get_head(SessionKey(owner, session_id))
        return await self._read({head.id: session_id}, ENTRIES)

    async def _read(self, names: Mapping[int, str], messages: int) -> Activity:
        ids = json_list(names)
        turns = await self._database.fetch("list_recent_turns", ids, ENTRIES)
        switches = await self._database.fetch("list_recent_switches", ids, ENTRIES)
        approvals = await self._database.fetch("list_recent_approvals", ids, ENTRIES)
        tools = await self._database.fetch("list_recent_tool_messages", ids, messages, ENTRIES)
        return Activity(
            read_at=self._clock(),
            turns=[
                EndedTurn(
                    names[id], n, turn_id, status, agent, started, ended, decode_optional(error), *tokens
                )
                for id, n, turn_id, status, agent, started, ended, error, *tokens in turns
            ],
            switches=[Handover(names[id], *rest) for id, *rest in switches],
            approvals=[
                ApprovalEntry(names[id], call_id, decode_optional(tool_name) or LONG_NAME, *rest)
                for id, call_id, tool_name, *rest in approvals
            ],
            tool_messages=[
                ToolMessage(
                    names[id], seq, role == "tool", str(decode_optional(name) or LONG_NAME), bool(failed), at
                )
                for id, seq, role, at, name, failed in tools
            ],
        )


def sessions_of(turns: Sequence[EndedTurn]) -> list[str]:
    """The sessions of turns, each once, in the order of their latest turns."""
    return list(dict.fromkeys(turn.session_id for turn in turns))
