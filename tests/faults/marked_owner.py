"""A victim, who has all that an owner can have, and every word of it is a secret."""

from __future__ import annotations

import re
import sqlite3
from contextlib import AsyncExitStack, closing
from typing import Any

import psycopg

from tests.faults.compared_servers import UUID, World

Json = Any

SECRET = "hush-hush"


async def fill(here: World) -> dict[str, str]:
    """All that a victim can have; the ids of it."""
    start = "/sessions/victim-open"

    async def ask(method: str, path: str, body: Json = None, **headers: str) -> Json:
        return await here.ask("victim", method, path, body, **headers)

    made = {
        "title": SECRET,
        "description": SECRET,
        "metadata": {"a": SECRET},
        "messages": [secret(), secret()],
    }
    for name in ("victim-open", "victim-deleted", "victim-keyed"):
        await ask("POST", "/sessions", {"session_id": name, **made}, **{"Idempotency-Key": f"made-{name}"})
    for call_id in ("victim-call", "victim-decided"):
        approval = {"call_id": call_id, "tool_name": SECRET, "arguments": {"a": SECRET}, "reason": SECRET}
        await ask("POST", f"{start}/approvals", approval)
    await ask(
        "POST", f"{start}/approvals/victim-decided/decision", {"decision": "reject", "feedback": SECRET}
    )
    await ask("POST", f"{start}/agent", {"agent": "ask", "reason": SECRET, "metadata": {"a": SECRET}})
    await ask("PATCH", f"{start}/context", {"metadata": {"a": SECRET}})
    turn = {"session_id": "victim-open", "message": {"type": "user_message", "content": SECRET}}
    events = await ask("POST", "/agent/message/stream", turn)
    await ask("DELETE", "/sessions/victim-deleted")
    listed = await ask("GET", "/sessions?limit=1")
    return {
        "session_id": "victim-open",
        "call_id": "victim-call",
        "turn_id": UUID.search(events)[0],  # type: ignore[index]
        "event_id": re.findall("^id: (.*)$", events, re.MULTILINE)[-1],
        "version": str((await ask("GET", start))["version"]),
        "cursor": listed["next_cursor"],
        "owner": "victim",
        "agent": "orchestrator",
        "agent_type": "orchestrator",
    }


def secret() -> Json:
    return {"role": "user", "content": SECRET, "metadata": {"a": SECRET}}


async def begin_to_wait(here: World, stack: AsyncExitStack) -> str:
    """A turn of the victim that runs on; its id."""
    body = {"session_id": "victim-open", "message": {"type": "user_message", "content": f"WAIT {SECRET}"}}
    stream = await stack.enter_async_context(
        here.request("victim", "POST", "/agent/message/stream", json=body)
    )
    first = await stream.content.readuntil(b"\n\n")
    return UUID.search(first.decode())[0]  # type: ignore[index]


def rows_of_the_victim(url: str) -> dict[str, list[Any]]:
    """Every row that is the victim's, of every table; signs of life of a running turn are left out."""
    rows = {}
    with closing(connect(url)) as connection:
        for table, columns in tables(connection, url).items():
            shown = ", ".join(f'"{column}"' for column in columns if column != "beat")
            if table == "tokens" or not {"owner", "session_db_id"} & set(columns):
                continue
            mine = "SELECT id FROM sessions WHERE owner = 'victim'"
            where = "owner = 'victim'" if "owner" in columns else f"session_db_id IN ({mine})"
            rows[table] = sorted(map(repr, connection.execute(f"SELECT {shown} FROM {table} WHERE {where}")))
    assert rows["messages"]
    return rows


def connect(url: str) -> Any:
    return (
        sqlite3.connect(url.removeprefix("sqlite:///")) if url.startswith("sqlite") else psycopg.connect(url)
    )


def tables(connection: Any, url: str) -> dict[str, list[str]]:
    if url.startswith("sqlite"):
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: [row[1] for row in connection.execute(f"PRAGMA table_info({name})")] for name in names}
    found: dict[str, list[str]] = {}
    columns = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
    for table, column in connection.execute(columns):
        found.setdefault(table, []).append(column)
    return found
