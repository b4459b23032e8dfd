"""Reads the part of a conversation that fits into the context window of a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from runtime.agents.prompt import Decisions, Message
from runtime.errors import HistoryTooLarge
from runtime.models import decode_json
from runtime.store.store import Store

# How many messages are read at a time, from the newest back: at first, at most, and how many times more than
# the time before, as far as messages as large as those will fit.
FIRST_PAGE, PAGE, GROWTH = 2, 100, 4
# What a text is taken to be in tokens where nobody counted them: a few characters are one.
CHARACTERS_A_TOKEN = 4
# What a model is sent of a message, and what is counted.
FIELDS = ("seq", "role", "content", "name", "tool_call_id", "tool_calls", "token_count")
# Replaces arguments that a person edited and that are too long for the model.
TOO_LONG = '{"edited":"A person edited these arguments; they are too long to be shown."}'
# A list of more bytes goes to the model as it is stored: to decode it would hold everybody up.
LONG_CONTENT = 4096


async def read_history(
    store: Store, session_id: str, owner: str, max_tokens: int, max_bytes: int
) -> list[Message]:
    """The newest messages of a session, oldest first: as many as fit into so many tokens and bytes.

    However few that are, the newest is among them, and the question that they answer. Raises HistoryTooLarge
    where the results of the last calls leave no room for the calls.
    """
    newest, whole = await _read_newest(store, session_id, owner, max_tokens, max_bytes)
    if not whole and not any(message["role"] == "user" for message in newest):
        before = newest[0]["seq"]
        page = await store.list_messages(session_id, before=before, limit=1, role="user", owner=owner)
        return [*map(_decode, page.encoded), *newest]
    return newest


async def _read_newest(
    store: Store, session_id: str, owner: str, max_tokens: int, max_bytes: int
) -> tuple[list[Message], bool]:
    """The messages that fit, and whether there are no others."""
    newest: list[Message] = []
    tokens, size, largest, limit = max_tokens, 0, 1, FIRST_PAGE
    page = await store.list_messages(session_id, last=limit, owner=owner)
    while True:
        for raw in map(bytes, reversed(page.encoded)):
            size, largest = size + len(raw), max(largest, len(raw))
            if newest and size > max_bytes:
                return _without_lone_results(newest, max_bytes)[::-1], False
            message = _decode(raw)
            tokens -= message.get("token_count") or len(raw) // CHARACTERS_A_TOKEN
            # A result is of no use without its call.
            if newest and tokens < 0 and newest[-1]["role"] != "tool":
                return newest[::-1], False
            newest.append(message)
        if not page.more or page.first_seq is None:
            return newest[::-1], True
        limit = min(PAGE, GROWTH * limit, max(1, (max_bytes - size) // largest))
        page = await store.list_messages(session_id, before=page.first_seq, limit=limit, owner=owner)


def _without_lone_results(newest: list[Message], max_bytes: int) -> list[Message]:
    """The messages, newest first, without the results at the end whose calls did not fit."""
    length = len(newest)
    while length and newest[length - 1]["role"] == "tool":
        length -= 1
    if not length:
        raise HistoryTooLarge(
            f"the last calls and their results have more than the {max_bytes} bytes of limits.history_bytes"
        )
    return newest[:length]


def _decode(raw: bytes | msgspec.Raw) -> Message:
    fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    return {name: _decode_field(name, bytes(fields[name])) for name in FIELDS if name in fields}


def _decode_field(name: str, text: bytes) -> Any:
    if len(text) <= LONG_CONTENT or text.startswith(b'"'):
        return decode_json(text)
    return msgspec.Raw(text) if name == "content" else json.loads(text)


async def read_decisions(
    store: Store, session_id: str, owner: str, log: Sequence[Message], max_bytes: int
) -> Decisions:
    """What became of the calls in a log that waited for a person, with the edited arguments of the newest,
    as many as fit into so many bytes."""
    calls = (call for message in reversed(log) for call in message.get("tool_calls") or ())
    ids = [call["id"] for call in calls if isinstance(call, dict) and isinstance(call.get("id"), str)]
    if not ids:
        return Decisions()
    found = await store.turns.list_decisions(session_id, list(dict.fromkeys(ids)), owner=owner)
    edited = {each.call_id: each for each in found if each.status == "edited"}
    size, fitting = 0, []
    for id in filter(edited.__contains__, dict.fromkeys(ids)):
        size += edited[id].edited_bytes
        if size > max_bytes:
            break
        fitting.append(id)
    texts = await store.turns.list_edited_arguments(session_id, fitting, owner=owner) if fitting else {}
    return Decisions(
        edited={(id, each.tool_name): texts.get(id, TOO_LONG) for id, each in edited.items()},
        expired=frozenset((each.call_id, each.tool_name) for each in found if each.status == "expired"),
    )
