"""The built-in model: it repeats the last message, and explains that it does no more."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import Raw

from runtime.agents.model import Answer, Question
from runtime.store.messages import texts_of

MAX_CHARACTERS = 2000
INTRODUCTION = "This is the built-in echo model: no language model is set (AGENT_RUNTIME__LLM_URL names one)."


class EchoModel:
    """Implements Model. It sends a word every `pause` seconds, calls no tools and counts no tokens."""

    def __init__(
        self, pause: float = 0.03, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._pause = pause
        self._sleep = sleep

    async def ask(self, question: Question, say: Callable[[str], None]) -> Answer:
        """Repeat the last message. Raises nothing."""
        text = f"{INTRODUCTION} {_echo(question.messages)}"
        # Each word goes out with the space that follows it, so that the pieces make up the text.
        for word in re.findall(r"\s*\S+\s*", text):
            await self._sleep(self._pause)
            say(word)
        return Answer(text)

    async def close(self) -> None:
        """There is nothing to let go of."""


def _echo(messages: list[dict[str, Any]]) -> str:
    results = _results_at_the_end(messages)
    if results:
        return "The tools answered: " + "; ".join(results)[:MAX_CHARACTERS]
    said = next((_text(message) for message in reversed(messages) if message.get("role") == "user"), "")
    return f"You said: {said[:MAX_CHARACTERS]}" if said.strip() else "You said nothing yet."


def _results_at_the_end(messages: list[dict[str, Any]]) -> list[str]:
    results: list[str] = []
    for message in reversed(messages):
        if message.get("role") != "tool":
            break
        results.insert(0, _text(message))
    return results


def _text(message: dict[str, Any]) -> str:
    content = message.get("content")
    # A long list comes as it is stored.
    return " ".join(texts_of(json.loads(bytes(content)) if isinstance(content, Raw) else content))
