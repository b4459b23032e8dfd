"""Rows for tests that use the database directly, below the store."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime

from runtime.db.database import Database, Transaction

NOON = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=UTC)
FAR = 2**62


def session_row(number: int, *, owner: str = "", at: datetime = NOON, metadata: str = "{}") -> list[object]:
    """The parameters of insert_session for the session `s<number>` with the id `number`."""
    head = [1, 0, 0, 0, 0, 1, 0, 0, None, None, len(metadata.encode())]
    return [number, owner, f"s{number}", None, None, metadata, at, at, True, None, *head]


def message_row(session: int, seq: int, content: str = '"hello"') -> list[object]:
    """The parameters of insert_message."""
    return [
        session,
        seq,
        "user",
        content,
        NOON,
        None,
        None,
        None,
        None,
        None,
        None,
        len(content.encode(errors="surrogatepass")),
    ]


async def insert_session(transaction: Transaction, number: int) -> None:
    await transaction.execute_many("insert_session", [session_row(number)])


async def session_ids(database: Database) -> list[int]:
    """The sessions that are committed."""
    keys = json.dumps([("", f"s{number}") for number in range(1, 10)])
    return sorted(row["id"] for row in await database.fetch("list_heads", keys))


def aiosqlite_threads() -> set[threading.Thread]:
    """The threads of connections that are open."""
    return {thread for thread in threading.enumerate() if "worker" in thread.name}


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop run until something has happened, for ten seconds at most."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0)
