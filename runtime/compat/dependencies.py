"""The FastAPI dependencies of the earlier service. They need the extra `compat`."""

from __future__ import annotations

from typing import Annotated

from runtime.compat import agent_context_async, session_manager_async
from runtime.compat.agent_context_async import AsyncAgentContextManager
from runtime.compat.database_service import DatabaseService, DatabaseSession, get_database_service, get_db
from runtime.compat.session_manager_async import AsyncSessionManager

try:
    from fastapi import Depends
except ImportError as error:
    raise ImportError(
        "runtime.compat.dependencies needs FastAPI: pip install 'agent-runtime[compat]'"
    ) from error


async def get_session_manager_dep() -> AsyncSessionManager:
    """The session manager. Raises RuntimeError before `init_session_manager`."""
    if session_manager_async.session_manager is None:
        raise RuntimeError("SessionManager not initialized")
    return session_manager_async.session_manager


async def get_agent_context_manager_dep() -> AsyncAgentContextManager:
    """The agent context manager. Raises RuntimeError before `init_agent_context_manager`."""
    if agent_context_async.agent_context_manager is None:
        raise RuntimeError("AgentContextManager not initialized")
    return agent_context_async.agent_context_manager


DBSession = Annotated[DatabaseSession, Depends(get_db)]
DBService = Annotated[DatabaseService, Depends(get_database_service)]
SessionManagerDep = Annotated[AsyncSessionManager, Depends(get_session_manager_dep)]
AgentContextManagerDep = Annotated[AsyncAgentContextManager, Depends(get_agent_context_manager_dep)]
