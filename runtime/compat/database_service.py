"""The asynchronous calls of the later generation of the earlier service's database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from runtime.compat import operations
from runtime.compat.exceptions import NotSupported
from runtime.compat.operations import Values
from runtime.compat.store_thread import Result, StoreThread, Work, close_url, open_thread

NOT_INITIALIZED = "Database not initialized. Call init_database() first."

_url: str | None = None


def init_database(database_url: str) -> None:
    """Choose the database; `init_db`, or the first use, opens it."""
    global _url
    _url = database_url


def initialized_url() -> str | None:
    """The URL that `init_database` was called with; None before."""
    return _url


def initialized_thread() -> StoreThread:
    """The store that was chosen. Raises RuntimeError before `init_database`, and StartupError."""
    if _url is None:
        raise RuntimeError(NOT_INITIALIZED)
    return open_thread(_url)


async def init_db() -> None:
    """Open the database and make its tables. Raises RuntimeError before `init_database`; StartupError."""
    await asyncio.to_thread(initialized_thread)


async def close_db() -> None:
    """Store what waits and close the database, if it was chosen."""
    if _url is not None:
        await asyncio.to_thread(close_url, _url)


class DatabaseSession:
    """What the methods of `DatabaseService` take as `db`. Each of their calls is a transaction of its own."""

    def __init__(self, thread: StoreThread) -> None:
        self.thread = thread

    async def do(self, work: Work[Result]) -> Result:
        """Do work on the store and return its result."""
        return await asyncio.wrap_future(self.thread.submit(work))

    async def commit(self) -> None:
        """Do nothing: every call is committed when it returns."""

    async def close(self) -> None:
        """Do nothing: the connections are the store's."""

    async def rollback(self) -> NoReturn:
        """Raises NotSupported: what has returned is stored."""
        raise NotSupported("there is nothing to roll back: each method of DatabaseService is a transaction")

    async def execute(self, *_: Any) -> NoReturn:
        """Raises NotSupported."""
        raise NotSupported(
            "execute needs SQLAlchemy, which is not used here; use the methods of DatabaseService"
        )


async def get_db() -> AsyncGenerator[DatabaseSession, None]:
    """Give one session, to FastAPI or to `async for`. Raises RuntimeError before `init_database`."""
    if initialized_url() is None:
        raise RuntimeError(NOT_INITIALIZED)
    yield DatabaseSession(await asyncio.to_thread(initialized_thread))


class DatabaseService:
    """The calls of a database, each with a session of `get_db` first; otherwise those of `Database`."""

    async def save_session(
        self,
        db: DatabaseSession,
        session_id: str,
        messages: Sequence[Mapping[str, Any]],
        last_activity: datetime,
    ) -> None:
        """Make the session, or replace its whole history. Raises IntegrityError."""
        await db.do(lambda store: operations.save_session(store, session_id, messages, last_activity))

    async def load_session(self, db: DatabaseSession, session_id: str) -> Values | None:
        """The session with its messages; None where it is missing or deleted."""
        return await db.do(lambda store: operations.load_session(store, session_id))

    async def delete_session(self, db: DatabaseSession, session_id: str, soft: bool = True) -> bool:
        """Delete the session, or erase it; return whether it was there."""
        return await db.do(lambda store: operations.delete_session(store, session_id, soft))

    async def list_all_sessions(self, db: DatabaseSession, include_deleted: bool = False) -> list[str]:
        """The ids of all sessions."""
        return await db.do(lambda store: operations.list_all_sessions(store, include_deleted))

    async def save_agent_context(
        self,
        db: DatabaseSession,
        session_id: str,
        current_agent: str,
        agent_history: Sequence[Mapping[str, Any]],
        metadata: Mapping[str, Any] | None,
        created_at: datetime,
        last_switch_at: datetime | None,
        switch_count: int,
    ) -> None:
        """Save the context and replace all of its handovers; an unknown session is logged."""
        await db.do(
            lambda store: operations.save_agent_context(
                store, session_id, current_agent, agent_history, metadata, created_at, switch_count
            )
        )

    async def load_agent_context(self, db: DatabaseSession, session_id: str) -> Values | None:
        """The context; None where nobody has saved one."""
        return await db.do(lambda store: operations.load_agent_context(store, session_id))

    async def save_pending_approval(
        self,
        db: DatabaseSession,
        session_id: str,
        call_id: str,
        tool_name: str,
        arguments: Any,
        reason: str | None = None,
    ) -> None:
        """Let a tool call wait; one that is known in any session stays as it is."""
        await db.do(
            lambda store: operations.save_pending_approval(
                store, session_id, call_id, tool_name, arguments, reason
            )
        )

    async def get_pending_approvals(self, db: DatabaseSession, session_id: str) -> list[Values]:
        """The tool calls of a session that wait, oldest first."""
        return await db.do(lambda store: operations.get_pending_approvals(store, session_id))

    async def delete_pending_approval(self, db: DatabaseSession, call_id: str) -> bool:
        """Take the approval for a call away; False where there is none."""
        return await db.do(lambda store: operations.delete_pending_approval(store, call_id))


_service = DatabaseService()


def get_database_service() -> DatabaseService:
    """The one service that all share."""
    return _service
