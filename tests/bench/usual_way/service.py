"""A service for conversations as it is usually written: FastAPI over async SQLAlchemy.

    python -m tests.bench.usual_way.service URL MODE

It keeps every session in memory and reads all of them when it starts. A change is stored by deleting the
whole history of its session and inserting it anew: every five seconds (MODE `flush`), or before the reply
to each request (MODE `commit`). It says on stderr where it listens.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from tests.bench import loops
from tests.bench.peers.places import open_engine
from tests.bench.usual_way.conversations import Conversation, Conversations

FLUSH_SECONDS = 5.0


class NewSession(BaseModel):
    """What POST /sessions takes."""

    session_id: str | None = None
    title: str | None = None


class Message(BaseModel):
    """What is appended."""

    role: str
    content: str


class Session(BaseModel):
    """What is shown of a session."""

    session_id: str
    title: str | None
    created_at: str
    message_count: int


class Appended(BaseModel):
    """The reply to an append."""

    session_id: str
    message_count: int


def make_app(conversations: Conversations, mode: str) -> FastAPI:
    """The routes; and what has changed is stored every few seconds, and at the end."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        flushing = asyncio.create_task(flush_forever(conversations))
        yield
        flushing.cancel()
        await conversations.store_changed()

    app = FastAPI(lifespan=lifespan)

    @app.post("/sessions", status_code=201)
    async def create_session(body: NewSession) -> Session:
        return show(await conversations.create(body.session_id or str(uuid4()), body.title))

    @app.get("/sessions")
    async def list_sessions() -> list[Session]:
        return [show(kept) for kept in conversations.all.values()]

    @app.post("/sessions/{session_id}/messages", status_code=201)
    async def append_message(session_id: str, body: Message) -> Appended:
        if session_id not in conversations.all:
            raise HTTPException(404, "no such session")
        changed = conversations.append(session_id, body.role, body.content)
        if mode == "commit":
            await conversations.store(changed)
        else:
            conversations.changed.add(session_id)
        return Appended(session_id=session_id, message_count=len(changed.messages))

    return app


async def flush_forever(conversations: Conversations) -> None:
    """Store what has changed, again and again."""
    while True:
        await asyncio.sleep(FLUSH_SECONDS)
        await conversations.store_changed()


def show(kept: Conversation) -> Session:
    return Session(
        session_id=kept.session_id,
        title=kept.title,
        created_at=kept.created_at,
        message_count=len(kept.messages),
    )


async def serve(url: str, mode: str) -> None:
    """Until a signal comes."""
    async with open_engine(url) as engine:
        conversations = Conversations(engine)
        await conversations.load()
        await listen(make_app(conversations, mode))


async def listen(app: FastAPI) -> None:
    """Answer on a free port."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        print(f"listening on http://127.0.0.1:{listening.getsockname()[1]}", file=sys.stderr, flush=True)
        config = uvicorn.Config(app, log_level="warning", access_log=False)
        await uvicorn.Server(config).serve(sockets=[listening])


if __name__ == "__main__":
    loops.run(serve(*sys.argv[1:]))
