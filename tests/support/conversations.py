"""Conversations to replay: those of the file that an environment variable names, or a few of our own."""

from __future__ import annotations

import gzip
import json
import os
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

VARIABLE = "AGENT_RUNTIME_TEST_CONVERSATIONS"
OWN = Path(__file__).parents[1] / "data" / "conversations.jsonl"
# Our own few are repeated until there are more than are replayed at a time.
OWN_COUNT = 80


class Conversation(NamedTuple):
    """A conversation as a chat-completion API takes it, and what to call its session."""

    id: str
    messages: list[dict[str, Any]]


def load_conversations() -> list[Conversation]:
    """The conversations to replay, each with an id of its own."""
    named = os.environ.get(VARIABLE)
    return _read(Path(named)) if named else _repeat(_read(OWN), OWN_COUNT)


def _read(path: Path) -> list[Conversation]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as lines:
        return [Conversation(**json.loads(line)) for line in lines]


def _repeat(conversations: list[Conversation], number: int) -> list[Conversation]:
    repeated = (Conversation(f"{id}-{turn}", messages) for turn in count(1) for id, messages in conversations)
    return list(islice(repeated, number))
