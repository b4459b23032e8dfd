"""What is drawn when conversations are generated: names, messages, times, and from them by chance."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from msgspec import UNSET, structs

from runtime.store.messages import NewMessage, new_messages
from runtime.store.records import SessionKey

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
EXISTING, DELETED, MISSING = SessionKey("", "a"), SessionKey("", "b"), SessionKey("", "c")
NAMESAKE, TO_BE_NAMED = SessionKey("ann", "a"), SessionKey("", "")

RAW: list[dict[str, Any]] = [
    {"role": "user", "content": "Why is the sky blue?\nTell me."},
    {"role": "user", "content": "And at dusk? \u0000 🌇", "token_count": 5},
    {"role": "user", "content": " \n "},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]},
    {"role": "system", "content": "Be brief.", "timestamp": "2026-11-20T08:30:00.25+01:00"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call-1", "function": {"name": "look", "arguments": "{}"}}],
        "token_count": 7,
    },
    {"role": "tool", "content": "rain", "tool_call_id": "call-1", "name": "look"},
    {"role": "assistant", "content": "Rain.", "metadata": {"n": 2**60 + 1}, "refusal": None, "x": [1.5]},
]
POOL = new_messages(RAW)
_RAW_OF = {structs.replace(message, timestamp=None): raw for message, raw in zip(POOL, RAW, strict=True)}


def raw_message(message: NewMessage) -> dict[str, Any]:
    """A message of the pool as a client sends it, at the time that it bears here."""
    raw = dict(_RAW_OF[structs.replace(message, timestamp=None)])
    raw.pop("timestamp", None)
    return raw if message.timestamp is None else {**raw, "timestamp": message.timestamp.isoformat()}


KEYS = (EXISTING, EXISTING, EXISTING, DELETED, MISSING, NAMESAKE)
TITLES = (None, '"A title"', '""')
OBJECTS = ("{}", '{"a":[1,null]}', '{"b":"\\u0000"}')
PATCHES = (*OBJECTS, '{"a":null,"c":{"d":1,"e":null}}', '{"c":{"d":null,"f":[{}]}}', "null")
AGENTS = ("orchestrator", "coder", "ask")
CALL_IDS = ("call-1", "call-2")
MINUTES = 12


class Chance:
    """Draws the parts of a step."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self.of = self._random.choice
        self.key = self.of(KEYS)

    def number(self, most: int) -> int:
        return self._random.randint(0, most)

    def some(self, values: Sequence[Any]) -> list[Any]:
        """At least three of these, in any number."""
        return self._random.sample(values, self._random.randint(3, len(values)))

    def yes(self) -> bool:
        return self.of((True, False))

    def time(self) -> datetime:
        return time(self.number(MINUTES))

    def messages(self) -> tuple[NewMessage, ...]:
        return tuple(self.of(POOL) for _ in range(self.number(3)))

    def given(self, values: Sequence[Any]) -> Any:
        return self.of((UNSET, self.of(values)))


def time(minute: int) -> datetime:
    return NOON + timedelta(minutes=minute)
