"""The agents that held a conversation, as replies list them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from msgspec import Raw, Struct

from runtime.models import AgentContext, AgentSwitch, EncodedObject


class AgentHistoryEntry(Struct, frozen=True, rename={"origin": "from", "target": "to"}):
    """An agent that held the conversation, and since when.

    The first agent has no origin, and no handover of its own: its `id` is 0. `from`, `to` and `timestamp`
    repeat `from_agent`, `to_agent` and `switched_at`.
    """

    id: int
    from_agent: str | None
    to_agent: str
    switched_at: datetime
    reason: str | None
    metadata: EncodedObject
    origin: str | None
    target: str
    timestamp: datetime


def agent_history(context: AgentContext, switches: Sequence[AgentSwitch]) -> list[AgentHistoryEntry]:
    """The agents of a session, oldest first, with the first one where `switches` go back to it."""
    return list(_entries(context, switches))


def _entries(context: AgentContext, switches: Sequence[AgentSwitch]) -> Iterator[AgentHistoryEntry]:
    oldest = switches[0] if switches else None
    if oldest is None:
        yield _first_agent(context.current_agent, context.created_at)
    elif oldest.id == 1 and oldest.from_agent is not None:
        yield _first_agent(oldest.from_agent, context.created_at)
    for switch in switches:
        yield AgentHistoryEntry(
            switch.id,
            switch.from_agent,
            switch.to_agent,
            switch.switched_at,
            switch.reason,
            switch.encoded_metadata,
            switch.from_agent,
            switch.to_agent,
            switch.switched_at,
        )


def _first_agent(agent: str, at: datetime) -> AgentHistoryEntry:
    return AgentHistoryEntry(0, None, agent, at, None, Raw(b"{}"), None, agent, at)
