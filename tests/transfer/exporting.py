"""Stores of many kinds of sessions, and their exports."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import Raw

from runtime.store.store import Store, open_store
from runtime.store.validation import JsonObject
from runtime.store.write.turn_commands import Ending
from tests.support.conversations import load_conversations
from tests.support.running_turns import ask

LATER = datetime(2026, 12, 1, tzinfo=UTC)
# What is easily lost on the way: digits, NULs, fields that nobody knows, and nulls of those that are known.
ODD_MESSAGES: tuple[dict[str, Any], ...] = (
    {"role": "user", "content": "a \0 stays \U0001f642 \u2028", "own": {"kept": [2**70, None, -1]}},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}], "token_count": 7, "name": None},
    {
        "role": "tool",
        "content": [{"type": "text", "text": "x\ny"}],
        "tool_call_id": "c",
        "metadata": {"n": 1},
    },
    {"role": "user", "content": "", "n": Raw(b"1.50"), "e": Raw(b"1E+400"), "z": Raw(b"-0.0")},
)


async def fill(url: str) -> None:
    """Store sessions of several owners in every state that a session may be in."""
    async with open_store(url) as store:
        await _fill_plain(store)
        await _fill_odd(store)
        # Stored by somebody who writes the history as a whole: many portions of an import, one version.
        texts = [{"role": "user", "content": f"word {n}"} for n in range(1300)]
        await store.replace_messages("long", texts, create=True, owner="ann")


async def _fill_plain(store: Store) -> None:
    for id, messages in load_conversations():
        await store.create_session(f"talk {id}", messages=messages)


async def _fill_odd(store: Store) -> None:
    metadata = JsonObject.parse({"big": 2**80, "float": Raw(b"0.10")})
    await store.create_session("чат-7", owner="ann", title="T\0", description="d", metadata=metadata)
    await store.append_messages("чат-7", ODD_MESSAGES, owner="ann")
    await store.truncate_messages("чат-7", after=2, owner="ann")
    await store.append_messages("чат-7", ODD_MESSAGES[2:], owner="ann")
    await store.switch_agent("чат-7", "coder", reason="why", metadata={"a": [1]}, owner="ann")
    await store.switch_agent("чат-7", "ask", owner="ann")
    await store.update_context("чат-7", {"k": None}, owner="ann")
    await store.create_approval("чат-7", "c", tool_name="write", arguments={"p": 1}, owner="ann")
    await store.create_approval(
        "чат-7", "b", tool_name="write", arguments={}, reason="r", expires_in=9, owner="ann"
    )
    await store.decide_approval("чат-7", "c", decision="edit", modified_arguments={"p": 2}, owner="ann")
    await store.create_session("cut", owner="ann", messages=ODD_MESSAGES)
    await store.truncate_messages("cut", after=0, owner="ann")
    await store.create_session("gone", owner="bob", messages=ODD_MESSAGES)
    await store.delete_session("gone", owner="bob")
    await store.create_session("idle", owner="bob")
    await store.update_session("idle", is_active=False, owner="bob")
    for ending in (Ending("completed"), Ending("failed", '"broken"', "code")):
        turn = await ask(store, session_id="turns")
        await turn.advance("text", input_tokens=3, output_tokens=4, ending=ending)
    await store.saved.save_session("bare", ODD_MESSAGES[:1], LATER)


async def export(url: str, **scope: str) -> list[bytes]:
    """The lines of an export but for the first one, which has its time."""
    async with open_store(url) as store:
        return [line async for line in store.export(**scope)][1:]


async def export_to(url: str, path: Path) -> Path:
    """A file with an export of everything."""
    async with open_store(url) as store:
        path.write_bytes(b"".join([line async for line in store.export()]))
    return path
