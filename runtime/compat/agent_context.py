"""The agent context manager of the earlier service: `agent_context_manager`, ready when it is imported.

Its database is that of `runtime.compat.session_manager`.
"""

from __future__ import annotations

from runtime.compat.agent_contexts import AgentContext, AgentContexts, AgentType
from runtime.compat.database import Database
from runtime.compat.session_manager import default_thread

__all__ = [
    "AgentContext",
    "AgentContextManager",
    "AgentType",
    "agent_context_manager",
    "get_agent_context_manager",
]


class AgentContextManager:
    """Agent contexts in memory, saved as they change; managers of a database share them. Thread-safe."""

    def __init__(self, db: Database | None = None) -> None:
        self._db = db

    @property
    def _states(self) -> AgentContexts:
        thread = default_thread() if self._db is None else self._db.thread
        return thread.part(AgentContexts)

    @property
    def _contexts(self) -> dict[str, AgentContext]:
        return self._states.known

    def get_or_create(
        self, session_id: str, initial_agent: AgentType = AgentType.ORCHESTRATOR
    ) -> AgentContext:
        """The context of a session, made where it is missing."""
        return self._states.get_or_create(session_id, initial_agent)

    def get(self, session_id: str) -> AgentContext | None:
        """The context, or None."""
        return self._states.find(session_id)

    def exists(self, session_id: str) -> bool:
        """Whether the session has a context."""
        return self.get(session_id) is not None

    def delete(self, session_id: str) -> bool:
        """Take a context away; False where there is none."""
        return self._states.delete(session_id)

    def get_all_sessions(self) -> list[str]:
        """The ids of the sessions that have a context."""
        return self._states.session_ids()

    def get_session_count(self) -> int:
        """How many sessions have a context."""
        return len(self._states.session_ids())

    def cleanup_old_sessions(self, max_age_hours: float = 24) -> int:
        """Take away the contexts that were made longer ago; return how many."""
        return self._states.cleanup(max_age_hours)


agent_context_manager = AgentContextManager()


def get_agent_context_manager(db: Database | None = None) -> AgentContextManager:
    """The one `agent_context_manager`; with a database, a manager of that one."""
    return agent_context_manager if db is None else AgentContextManager(db)
