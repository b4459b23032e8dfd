"""Reads what a model is to be told of a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtime.agents.chat_messages import Decisions, Message
from runtime.store.store import Store

# How many messages are read at a time, from the newest back.
PAGE = 100
# What a text is taken to be in tokens where nobody counted them: a few characters are one.
CHARACTERS_A_TOKEN = 4


async def read_history(store: Store, session_id: str, owner: str, tokens: int) -> list[Message]:
    """The newest messages of a session, oldest first: as many as fit into so many tokens.

    However few that are, the question that they answer is among them.
    """
    newest, cut_at = await _read_newest(store, session_id, owner, tokens)
    if cut_at is not None and not any(message["role"] == "user" for message in newest):
        page = await store.list_messages(session_id, before=cut_at, limit=1, role="user", owner=owner)
        return [*page.messages, *newest]
    return newest


async def _read_newest(
    store: Store, session_id: str, owner: str, tokens: int
) -> tuple[list[Message], int | None]:
    """The messages that fit, and the number of the first where others stand before it."""
    newest: list[Message] = []
    page = await store.list_messages(session_id, last=PAGE, owner=owner)
    while True:
        for message, raw in zip(reversed(page.messages), reversed(page.encoded), strict=True):
            tokens -= message.get("token_count") or len(bytes(raw)) // CHARACTERS_A_TOKEN
            # A result is of no use without its call.
            if newest and tokens < 0 and newest[-1]["role"] != "tool":
                return newest[::-1], newest[-1]["seq"]
            newest.append(message)
        if not page.more or page.first_seq is None:
            return newest[::-1], None
        page = await store.list_messages(session_id, before=page.first_seq, limit=PAGE, owner=owner)


async def read_decisions(store: Store, session_id: str, owner: str, log: Sequence[Message]) -> Decisions:
    """What became of the calls in a log that waited for a person."""
    if not any(message.get("tool_calls") for message in log):
        return Decisions()
    edited = await store.list_approvals(session_id, status="edited", owner=owner)
    expired = await store.list_approvals(session_id, status="expired", owner=owner)
    return Decisions(
        edited={(each.call_id, each.tool_name): each.modified_arguments for each in edited.approvals},
        expired=frozenset((each.call_id, each.tool_name) for each in expired.approvals),
    )


async def find_caller(store: Store, session_id: str, owner: str, call_id: str) -> str | None:
    """The agent that made a call in a turn, as far as the newest messages tell."""
    page = await store.list_messages(session_id, last=PAGE, role="assistant", owner=owner)
    for message in reversed(page.messages):
        if any(_id_of(call) == call_id for call in message.get("tool_calls") or ()):
            agent = (message.get("metadata") or {}).get("agent")
            return agent if isinstance(agent, str) else None
    return None


def _id_of(call: Any) -> Any:
    return call.get("id") if isinstance(call, dict) else None
