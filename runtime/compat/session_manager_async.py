"""The asynchronous session manager of the earlier service."""

from __future__ import annotations

import asyncio

from runtime.compat.database_service import initialized_thread
from runtime.compat.operations import Values
from runtime.compat.session_states import Message, SessionState, SessionStates, tool_message

__all__ = [
    "AsyncSessionManager",
    "Message",
    "SessionState",
    "get_async_session_manager",
    "init_session_manager",
    "session_manager",
]


class AsyncSessionManager:
    """Sessions in memory, saved as they change. Shares them with every manager of the same database.

    The database is the one that `init_database` chose. A session is read when it is first asked for:
    `exists`, `get` and `get_history` are no coroutines, and block for that one read.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._write_task: asyncio.Task[None] | None = None

    @property
    def _states(self) -> SessionStates:
        return initialized_thread().part(SessionStates)

    @property
    def _sessions(self) -> dict[str, SessionState]:
        return self._states.known

    async def initialize(self) -> None:
        """Open the database. Raises RuntimeError before `init_database`, and StartupError."""
        await asyncio.to_thread(initialized_thread)

    async def shutdown(self) -> None:
        """Save what callers have added themselves."""
        await asyncio.to_thread(self._states.flush)

    def exists(self, session_id: str) -> bool:
        """Whether there is such a session."""
        return self.get(session_id) is not None

    async def create(self, session_id: str, system_prompt: str | None = None) -> SessionState:
        """A new session. Raises ValueError where it exists."""
        return await asyncio.to_thread(self._states.create, session_id, system_prompt)

    def get(self, session_id: str) -> SessionState | None:
        """The session, or None."""
        return self._states.find(session_id)

    async def get_or_create(self, session_id: str, system_prompt: str | None = None) -> SessionState:
        """The session, made where it is missing."""
        return await asyncio.to_thread(self._states.get_or_create, session_id, system_prompt)

    async def append_message(self, session_id: str, role: str, content: str, name: str | None = None) -> None:
        """Add a message. Raises ValueError where the session does not exist."""
        await self._append(session_id, Message(role, content, name))

    async def append_tool_result(self, session_id: str, call_id: str, tool_name: str, result: str) -> None:
        """Add the result of a tool. Raises ValueError where the session does not exist."""
        await self._append(session_id, tool_message(call_id, tool_name, result))

    async def _append(self, session_id: str, message: Message | Values) -> None:
        states = self._states
        if session_id not in states.known:
            await asyncio.to_thread(states.find, session_id)
        # Not in a thread: messages of concurrent calls have the order of the calls.
        await asyncio.wrap_future(states.add(session_id, message))

    def get_history(self, session_id: str) -> list[Values]:
        """The messages as dicts; empty for an unknown session."""
        state = self.get(session_id)
        return [] if state is None else state.history()

    def all_sessions(self) -> list[SessionState]:
        """All sessions."""
        return self._states.all()

    async def delete(self, session_id: str) -> None:
        """Delete a session, if there is one."""
        await asyncio.to_thread(self._states.delete, session_id)


session_manager: AsyncSessionManager | None = None


async def get_async_session_manager() -> AsyncSessionManager:
    """The one manager that all share, made and initialized at the first call."""
    global session_manager
    if session_manager is None:
        manager = AsyncSessionManager()
        await manager.initialize()
        session_manager = session_manager or manager
    return session_manager


async def init_session_manager() -> None:
    """Make and initialize `session_manager`. Raises RuntimeError before `init_database`."""
    await get_async_session_manager()
