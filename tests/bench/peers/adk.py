"""Google ADK, `DatabaseSessionService`: one service over one engine, an event of the user for each append.

The service lets one append at a time into a session. All callers of a session share one `Session` object,
which the service keeps up to date, so that none is refused as stale and none has to fetch it again. The
engine is given to the service: one that it makes itself asks Postgres before each use whether it is there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from google.adk.events import Event
from google.adk.sessions import DatabaseSessionService
from google.genai.types import Content, Part

from tests.bench import worker
from tests.bench.peers.places import open_engine
from tests.bench.worker import MESSAGE, SESSIONS, Append

OWNER = {"app_name": "bench", "user_id": "user"}
CONTENT = Content(role=MESSAGE["role"], parts=[Part(text=MESSAGE["content"])])


@asynccontextmanager
async def opener(url: str) -> AsyncIterator[Append]:
    """`append_event` of one message."""
    async with open_engine(url) as engine:
        service = DatabaseSessionService(db_engine=engine)
        sessions = {name: await service.create_session(**OWNER, session_id=name) for name in SESSIONS}
        yield lambda name: service.append_event(sessions[name], Event(author="user", content=CONTENT))


if __name__ == "__main__":
    worker.main(opener)
