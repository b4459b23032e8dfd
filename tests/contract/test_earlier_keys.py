"""W12 across an upgrade: requests that an earlier version stored under idempotency keys.

`tests/data/earlier_keys` has the tables of a database that 0.1.0 wrote on each dialect before its store was
divided into rooms, and the requests it answered, each with its key and its reply to a repeat. They include
every command that a caller can send. They were written on Python 3.11.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from runtime.errors import KeyReused
from runtime.store.messages import new_messages
from runtime.store.records import SessionKey
from runtime.store.store import Store
from runtime.store.turn_store import tool_result, verdict
from runtime.store.write.commands import AppendMessages, fingerprint
from runtime.store.write.outcomes import TurnWritten
from runtime.store.write.turn_commands import StopTurn
from tests.support.running_turns import Clock, open_timed

DATA = Path(__file__).parents[1] / "data" / "earlier_keys"
REQUESTS: list[dict[str, Any]] = json.loads((DATA / "requests.json").read_text())


@pytest.fixture
async def store(database_url: str, clock: Clock) -> AsyncIterator[Store]:
    """A store on the earlier database."""
    if database_url.startswith("sqlite"):
        connection = sqlite3.connect(database_url.removeprefix("sqlite:///"))
        connection.executescript((DATA / "sqlite.sql").read_text())
        connection.close()
    else:
        postgres = await asyncpg.connect(database_url)
        await postgres.execute((DATA / "postgres.sql").read_text())
        await postgres.close()
    async with open_timed(database_url, clock) as store:
        yield store


async def repeat(store: Store, request: dict[str, Any], session_id: str | None) -> Any:
    """The reply to a request for this session under its key."""
    _, *arguments = request["arguments"]
    keywords = {**request["keywords"], "owner": "alice", "idempotency_key": request["key"]}
    match request["method"]:
        case "start_turn":
            if "result" in keywords:
                keywords["result"] = tool_result(**keywords["result"])
            if "verdict" in keywords:
                keywords["verdict"] = verdict(**keywords["verdict"])
            return await store.turns.start_turn(str(session_id), **keywords)
        case "stop_turn":
            # Below `Store.stop_turn`, which interrupts the turn first: its process is gone.
            command = StopTurn(SessionKey("alice", str(session_id)), *arguments)
            return await store._core.submitter.write(
                command, TurnWritten, {"owner": "alice", "idempotency_key": request["key"]}
            )
        case method:
            return await getattr(store, method)(session_id, *arguments, **keywords)


async def test_a_repeat_has_the_reply_of_the_earlier_version(store: Store) -> None:
    for request in REQUESTS:
        outcome = await repeat(store, request, request["arguments"][0])
        reply = json.loads(msgspec.json.encode(outcome))
        # The dialects number sessions differently.
        reply.pop("session_db_id", None)
        # The earlier version did not repeat it.
        assert reply.get("session", {}).pop("id", None) in (None, reply["session_id"])
        assert reply.get("session", {}).pop("forked_from", None) is None
        assert (type(outcome).__name__, reply) == (request["kind"], request["reply"]), request


async def test_another_request_under_an_earlier_key_is_refused(store: Store) -> None:
    for request in REQUESTS:
        with pytest.raises(KeyReused):
            await repeat(store, request, "another")


def test_the_fingerprint_of_many_messages_is_that_of_before() -> None:
    messages = new_messages([{"role": "user", "content": f"message {n}"} for n in range(4001)])
    command = AppendMessages(SessionKey("alice", "s"), messages)
    assert fingerprint(command) == "b0e7894aaa09afa6fe7b78c6895a415d"
