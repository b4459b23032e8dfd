"""Conversations in memory, and their rows: what the usual service keeps, and how it stores it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import ForeignKey, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, selectinload


class Base(DeclarativeBase):
    """What has a table."""


class SessionRow(Base):
    """A session."""

    __tablename__ = "sessions"

    session_id: Mapped[str] = mapped_column(primary_key=True)
    title: Mapped[str | None]
    created_at: Mapped[str]
    messages: Mapped[list[MessageRow]] = relationship(order_by="MessageRow.position")


class MessageRow(Base):
    """A message of a session."""

    __tablename__ = "messages"

    session_id: Mapped[str] = mapped_column(ForeignKey(SessionRow.session_id), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    role: Mapped[str]
    content: Mapped[str]
    created_at: Mapped[str]


def now() -> str:
    """The time, as it is stored and shown."""
    return datetime.now(UTC).isoformat()


@dataclass
class Conversation:
    """A session as memory has it."""

    session_id: str
    title: str | None = None
    created_at: str = field(default_factory=now)
    messages: list[dict[str, str]] = field(default_factory=list)
    # Two that store one history at a time would store it twice.
    storing: asyncio.Lock = field(default_factory=asyncio.Lock)


class Conversations:
    """All sessions, which are in memory from the start."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.all: dict[str, Conversation] = {}
        # Those to be stored later.
        self.changed: set[str] = set()
        self._engine = engine
        self._open = async_sessionmaker(engine, expire_on_commit=False)

    async def load(self) -> None:
        """Make the tables where they are missing, and read everything."""
        async with self._engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with self._open() as rows:
            found = await rows.scalars(select(SessionRow).options(selectinload(SessionRow.messages)))
            self.all = {row.session_id: _read(row) for row in found}

    async def create(self, session_id: str, title: str | None) -> Conversation:
        """A new session, committed."""
        made = Conversation(session_id, title)
        async with self._open.begin() as rows:
            rows.add(SessionRow(session_id=session_id, title=title, created_at=made.created_at))
        self.all[session_id] = made
        return made

    def append(self, session_id: str, role: str, content: str) -> Conversation:
        """Add a message, in memory."""
        changed = self.all[session_id]
        changed.messages.append({"role": role, "content": content, "created_at": now()})
        return changed

    async def store_changed(self) -> None:
        """Store every session of `changed`."""
        while self.changed:
            await self.store(self.all[self.changed.pop()])

    async def store(self, changed: Conversation) -> None:
        """Delete the history of a session and insert it anew, in one transaction."""
        async with changed.storing, self._open.begin() as rows:
            mine = {"session_id": changed.session_id}
            history = [{**mine, "position": at, **kept} for at, kept in enumerate(changed.messages)]
            await rows.execute(delete(MessageRow).where(MessageRow.session_id == changed.session_id))
            await rows.execute(insert(MessageRow), history)


def _read(row: SessionRow) -> Conversation:
    messages = [
        {"role": kept.role, "content": kept.content, "created_at": kept.created_at} for kept in row.messages
    ]
    return Conversation(row.session_id, row.title, row.created_at, messages)
