"""The database of the earlier service, as its synchronous generation had it: the fullest one.

The names of the later generation that have one meaning only are here too. Two names had two: `get_db` gives a
`Database` here, as most code expects that calls it without `await`, and is a generator in `database_async`;
`get_database` gives one shared `Database` here, and a new one each time there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, NoReturn

from runtime.compat import operations
from runtime.compat.database_service import (
    DatabaseService,
    close_db,
    get_database_service,
    init_database,
    init_db,
    initialized_url,
)
from runtime.compat.exceptions import INSTEAD, IntegrityError, NotSupported, refuse
from runtime.compat.operations import Values
from runtime.compat.store_thread import StoreThread, close_thread, open_thread

__all__ = [
    "Database",
    "DatabaseService",
    "IntegrityError",
    "NotSupported",
    "close_db",
    "get_database",
    "get_database_service",
    "get_db",
    "init_database",
    "init_db",
]

DEFAULT_URL = "sqlite:///data/agent_runtime.db"


class Database:
    """A database, opened when this is made. Raises StartupError.

    Without a URL it is the one that `init_database` chose, or else the file in the folder `data`. Methods
    block until the database has answered, and may be called from any thread.
    """

    def __init__(self, db_url: str | None = None) -> None:
        self.db_url = db_url or initialized_url() or DEFAULT_URL
        self._thread = open_thread(self.db_url)

    @property
    def thread(self) -> StoreThread:
        """The store, in its thread."""
        return self._thread

    def close(self) -> None:
        """Store what waits and close, for all objects with this URL. The end of the process does it too."""
        close_thread(self.thread)

    # Sessions

    def save_session(
        self, session_id: str, messages: Sequence[Mapping[str, Any]], last_activity: datetime
    ) -> None:
        """Make the session, or replace its whole history.

        Raises IntegrityError for a role that is none, and where the session is deleted; nothing is changed.
        """
        self.thread.run(lambda store: operations.save_session(store, session_id, messages, last_activity))

    def load_session(self, session_id: str) -> Values | None:
        """`{session_id, messages, last_activity, created_at}`; None where it is missing or deleted."""
        return self.thread.run(lambda store: operations.load_session(store, session_id))

    def delete_session(self, session_id: str, soft: bool = True) -> bool:
        """Delete the session, or erase it with all but its approvals; return whether it was there."""
        return self.thread.run(lambda store: operations.delete_session(store, session_id, soft))

    def list_all_sessions(self, include_deleted: bool = False) -> list[str]:
        """The ids of all sessions."""
        return self.thread.run(lambda store: operations.list_all_sessions(store, include_deleted))

    def get_messages_paginated(self, session_id: str, page: int = 1, page_size: int = 50) -> list[Values]:
        """The `page`-th page of messages, from 1, oldest first; empty for an unknown session."""
        return self.thread.run(
            lambda store: operations.get_messages_paginated(store, session_id, page, page_size)
        )

    def get_session_stats(self, session_id: str) -> Values | None:
        """Its counts and times; None where it is missing or deleted.

        `{session_id, message_count, total_tokens, last_message_at, created_at, last_activity}`
        """
        return self.thread.run(lambda store: operations.get_session_stats(store, session_id))

    def update_session_title(self, session_id: str, title: str) -> bool:
        """Set the title, of which 500 characters are kept; False for an unknown session."""
        return self.thread.run(lambda store: operations.update_session_title(store, session_id, title))

    def update_session_description(self, session_id: str, description: str) -> bool:
        """Set the description; False for an unknown session."""
        return self.thread.run(
            lambda store: operations.update_session_description(store, session_id, description)
        )

    def cleanup_old_sessions(self, max_age_hours: float = 24) -> int:
        """Delete sessions whose last activity is longer ago; return how many."""
        return self.thread.run(lambda store: operations.cleanup_old_sessions(store, max_age_hours))

    def hard_delete_old_sessions(self, days_old: float = 30) -> int:
        """Erase sessions that were deleted longer ago; return how many."""
        return self.thread.run(lambda store: operations.hard_delete_old_sessions(store, days_old))

    # Agent contexts

    def save_agent_context(
        self,
        session_id: str,
        current_agent: str,
        agent_history: Sequence[Mapping[str, Any]],
        metadata: Mapping[str, Any] | None,
        created_at: datetime,
        last_switch_at: datetime | None,
        switch_count: int,
    ) -> None:
        """Save the context and replace all of its handovers, `[{from, to, reason, timestamp, metadata}]`.

        An unknown session is logged, and nothing is done. `last_switch_at` is that of the last handover,
        whatever is given. Raises TypeError for metadata that is no JSON.
        """
        self.thread.run(
            lambda store: operations.save_agent_context(
                store, session_id, current_agent, agent_history, metadata, created_at, switch_count
            )
        )

    def load_agent_context(self, session_id: str) -> Values | None:
        """`{session_id, current_agent, agent_history, metadata, created_at, last_switch_at, switch_count}`.

        None where the session is unknown, or nobody has saved a context.
        """
        return self.thread.run(lambda store: operations.load_agent_context(store, session_id))

    def delete_agent_context(self, session_id: str) -> bool:
        """Take the context away; False where there is none."""
        return self.thread.run(lambda store: operations.delete_agent_context(store, session_id))

    def list_all_contexts(self) -> list[str]:
        """The ids of the sessions that have a context and are not deleted."""
        return self.thread.run(operations.list_all_contexts)

    def get_agent_switch_history(self, session_id: str, limit: int = 100) -> list[Values]:
        """`[{id, from_agent, to_agent, switched_at, reason, metadata}]`, latest first."""
        return self.thread.run(lambda store: operations.get_agent_switch_history(store, session_id, limit))

    # Approvals

    def save_pending_approval(
        self, session_id: str, call_id: str, tool_name: str, arguments: Any, reason: str | None = None
    ) -> None:
        """Let a tool call wait, of any session; a call that is known anywhere is left as it is."""
        self.thread.run(
            lambda store: operations.save_pending_approval(
                store, session_id, call_id, tool_name, arguments, reason
            )
        )

    def get_pending_approvals(self, session_id: str) -> list[Values]:
        """`[{call_id, tool_name, arguments, reason, created_at}]` of those that wait, oldest first."""
        return self.thread.run(lambda store: operations.get_pending_approvals(store, session_id))

    def delete_pending_approval(self, call_id: str) -> bool:
        """Take the approval for a call away, in whichever session it is; False where there is none."""
        return self.thread.run(lambda store: operations.delete_pending_approval(store, call_id))

    def update_approval_status(self, call_id: str, status: str) -> bool:
        """Set the status: approved, rejected or cancelled, which is stored as rejected.

        Returns False where there is none. Raises ValueError for another status.
        """
        return self.thread.run(lambda store: operations.update_approval_status(store, call_id, status))

    # What was SQLAlchemy's

    def session_scope(self) -> AbstractContextManager[Any]:
        """Raises NotSupported."""
        refuse("session_scope")

    def get_session(self) -> NoReturn:
        """Raises NotSupported."""
        refuse("get_session")

    @property
    def engine(self) -> NoReturn:
        """Raises NotSupported."""
        refuse("engine")

    @property
    def SessionLocal(self) -> NoReturn:
        """Raises NotSupported."""
        refuse("SessionLocal")


_shared: Database | None = None


def get_database() -> Database:
    """The one `Database()` that all share."""
    global _shared
    if _shared is None or _shared.thread.is_closed:
        _shared = Database()
    return _shared


def get_db() -> Database:
    """The same. For the generator of the later generation see `database_async`."""
    return get_database()


def __getattr__(name: str) -> NoReturn:
    """Refuse the names of SQLAlchemy's objects that this module had."""
    if name in INSTEAD:
        refuse(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
