"""The asynchronous agent context manager of the earlier service."""

from __future__ import annotations

import asyncio

from runtime.compat.agent_contexts import AgentContext, AgentContexts, AgentType
from runtime.compat.database_service import initialized_thread

__all__ = [
    "AgentContext",
    "AgentType",
    "AsyncAgentContextManager",
    "agent_context_manager",
    "get_async_agent_context_manager",
    "init_agent_context_manager",
]


class AsyncAgentContextManager:
    """Agent contexts in memory, saved as they change. Shares them with every manager of the same database.

    The database is the one that `init_database` chose. A context is read when it is first asked for: `get`
    and `exists` are no coroutines, and block for that one read.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._write_task: asyncio.Task[None] | None = None

    @property
    def _states(self) -> AgentContexts:
        return initialized_thread().part(AgentContexts)

    @property
    def _contexts(self) -> dict[str, AgentContext]:
        return self._states.known

    async def initialize(self) -> None:
        """Open the database. Raises RuntimeError before `init_database`, and StartupError."""
        await asyncio.to_thread(initialized_thread)

    async def shutdown(self) -> None:
        """Save what has changed otherwise than by the methods of a context."""
        await asyncio.to_thread(self._states.flush)

    async def get_or_create(
        self, session_id: str, initial_agent: AgentType = AgentType.ORCHESTRATOR
    ) -> AgentContext:
        """The context of a session, made where it is missing."""
        return await asyncio.to_thread(self._states.get_or_create, session_id, initial_agent)

    def get_or_create_sync(
        self, session_id: str, initial_agent: AgentType = AgentType.ORCHESTRATOR
    ) -> AgentContext:
        """The same, blocking."""
        return self._states.get_or_create(session_id, initial_agent)

    def get(self, session_id: str) -> AgentContext | None:
        """The context, or None."""
        return self._states.find(session_id)

    def exists(self, session_id: str) -> bool:
        """Whether the session has a context."""
        return self.get(session_id) is not None

    async def delete(self, session_id: str) -> bool:
        """Take a context away; False where there is none."""
        return await asyncio.to_thread(self._states.delete, session_id)

    def get_all_sessions(self) -> list[str]:
        """The ids of the sessions that have a context."""
        return self._states.session_ids()

    def get_session_count(self) -> int:
        """How many sessions have a context."""
        return len(self._states.session_ids())

    async def cleanup_old_sessions(self, max_age_hours: float = 24) -> int:
        """Take away the contexts that were made longer ago; return how many."""
        return await asyncio.to_thread(self._states.cleanup, max_age_hours)


agent_context_manager: AsyncAgentContextManager | None = None


async def get_async_agent_context_manager() -> AsyncAgentContextManager:
    """The one manager that all share, made and initialized at the first call."""
    global agent_context_manager
    if agent_context_manager is None:
        manager = AsyncAgentContextManager()
        await manager.initialize()
        agent_context_manager = agent_context_manager or manager
    return agent_context_manager


async def init_agent_context_manager() -> None:
    """Make and initialize `agent_context_manager`. Raises RuntimeError before `init_database`."""
    await get_async_agent_context_manager()
