"""What tests save, in the shapes of the earlier service."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from runtime.compat.database import Database

NOON = datetime(2026, 1, 7, 12, 0, 0, 123456)
CALL = {"id": "call_123", "type": "function", "function": {"name": "test_tool", "arguments": "{}"}}
HISTORY = [
    {"from": None, "to": "orchestrator", "reason": "Initial agent", "timestamp": "2026-01-07T12:00:00"},
    {"from": "orchestrator", "to": "coder", "reason": "Changes", "timestamp": "2026-01-07T12:01:00.5"},
]


def now() -> datetime:
    """As its code took the time: in UTC, without a zone."""
    return datetime.now(UTC).replace(tzinfo=None)


def talk(count: int) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": f"Message {n}"} for n in range(count)]


def save_context(db: Database, session_id: str, **changed: Any) -> None:
    given: dict[str, Any] = {
        "current_agent": "coder",
        "agent_history": HISTORY,
        "metadata": {"project": "test_project"},
        "created_at": NOON,
        "last_switch_at": NOON,
        "switch_count": 1,
    }
    db.save_agent_context(session_id=session_id, **{**given, **changed})
