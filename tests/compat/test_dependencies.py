"""The FastAPI dependencies, in an application that is called as a server calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from fastapi import FastAPI

from runtime.compat.agent_context import AgentType
from runtime.compat.agent_context_async import init_agent_context_manager
from runtime.compat.database import Database
from runtime.compat.dependencies import (
    AgentContextManagerDep,
    DBService,
    DBSession,
    SessionManagerDep,
    get_agent_context_manager_dep,
    get_session_manager_dep,
)
from runtime.compat.session_manager_async import init_session_manager

app = FastAPI()


@app.post("/sessions/{session_id}")
async def create(session_id: str, manager: SessionManagerDep, contexts: AgentContextManagerDep) -> str:
    await manager.create(session_id, "You are helpful")
    (await contexts.get_or_create(session_id)).switch_agent(AgentType.CODER, "asked")
    return "made"


@app.get("/sessions/{session_id}")
async def show(session_id: str, db: DBSession, service: DBService) -> Any:
    loaded = await service.load_session(db, session_id)
    return None if loaded is None else loaded["messages"]


async def ask(method: str, path: str) -> Any:
    """The JSON of the answer of the application."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    head = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": []}
    await app(head, receive, send)
    assert sent[0]["status"] == 200
    return json.loads(b"".join(message.get("body", b"") for message in sent))


async def test_an_application_gets_the_managers_and_the_database(chosen: str) -> None:
    await init_session_manager()
    await init_agent_context_manager()
    assert await ask("POST", "/sessions/s") == "made"
    assert await ask("GET", "/sessions/s") == [{"role": "system", "content": "You are helpful"}]
    assert await ask("GET", "/sessions/nobody") is None
    database = Database(chosen)
    # A handover in an event loop is stored soon, and at the latest when the database is closed.
    database.close()
    assert (Database(chosen).load_agent_context("s") or {})["current_agent"] == "coder"


async def test_a_manager_that_is_not_initialized_is_a_runtime_error() -> None:
    with pytest.raises(RuntimeError, match=r"^SessionManager not initialized$"):
        await get_session_manager_dep()
    with pytest.raises(RuntimeError, match=r"^AgentContextManager not initialized$"):
        await get_agent_context_manager_dep()


def test_without_fastapi_the_error_names_the_extra() -> None:
    program = "import sys\nsys.modules['fastapi'] = None\nimport runtime.compat.dependencies"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "ImportError: runtime.compat.dependencies needs FastAPI: pip install 'agent-runtime[compat]'" in (
        ended.stderr
    )
