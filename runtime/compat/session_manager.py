"""The session manager of the earlier service: `session_manager`, ready when it is imported.

It opens its database at the first use: the one that `init_database` chose, or else that of `get_database`.
The later generation of the earlier service raised RuntimeError until `init_session_manager` was called. Older
code never calls that, so that this one does not ask for it.
"""

from __future__ import annotations

from runtime.compat.database import Database, get_database
from runtime.compat.database_service import initialized_thread, initialized_url
from runtime.compat.operations import Values
from runtime.compat.session_states import Message, SessionState, SessionStates, tool_message
from runtime.compat.store_thread import StoreThread

__all__ = ["Message", "SessionManager", "SessionState", "get_session_manager", "session_manager"]


def default_thread() -> StoreThread:
    """The store of the database that `init_database` chose, or else of `get_database`."""
    return get_database().thread if initialized_url() is None else initialized_thread()


class SessionManager:
    """Sessions in memory, saved as they change. Managers of the same database share them. Thread-safe."""

    def __init__(self, db: Database | None = None) -> None:
        self._db = db

    @property
    def _states(self) -> SessionStates:
        thread = default_thread() if self._db is None else self._db.thread
        return thread.part(SessionStates)

    @property
    def _sessions(self) -> dict[str, SessionState]:
        return self._states.known

    @property
    def _lock(self) -> object:
        return self._states.lock

    def exists(self, session_id: str) -> bool:
        """Whether there is such a session."""
        return self.get(session_id) is not None

    def create(self, session_id: str, system_prompt: str | None = None) -> SessionState:
        """A new session. Raises ValueError where it exists."""
        return self._states.create(session_id, system_prompt)

    def get(self, session_id: str) -> SessionState | None:
        """The session, or None."""
        return self._states.find(session_id)

    def get_or_create(self, session_id: str, system_prompt: str | None = None) -> SessionState:
        """The session, made where it is missing."""
        return self._states.get_or_create(session_id, system_prompt)

    def append_message(self, session_id: str, role: str, content: str, name: str | None = None) -> None:
        """Add a message. Raises ValueError where the session does not exist."""
        self._states.add(session_id, Message(role, content, name)).result()

    def append_tool_result(self, session_id: str, call_id: str, tool_name: str, result: str) -> None:
        """Add the result of a tool. Raises ValueError where the session does not exist."""
        self._states.add(session_id, tool_message(call_id, tool_name, result)).result()

    def get_history(self, session_id: str) -> list[Values]:
        """The messages as dicts; empty for an unknown session."""
        state = self.get(session_id)
        return [] if state is None else state.history()

    def all_sessions(self) -> list[SessionState]:
        """All sessions."""
        return self._states.all()

    def delete(self, session_id: str) -> None:
        """Delete a session, if there is one."""
        self._states.delete(session_id)


session_manager = SessionManager()


def get_session_manager(db: Database | None = None) -> SessionManager:
    """The one `session_manager`; with a database, a manager of that one."""
    return session_manager if db is None else SessionManager(db)
