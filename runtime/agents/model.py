"""The interface of a language model: what the runtime sends it and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol
from uuid import uuid4

from msgspec import Struct


class Question(Struct, frozen=True):
    """What a model is asked: messages and tools in the form that chat-completion APIs take.

    `model` is empty where the usual one will do; `parameters` such as `temperature` go along as they are.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    model: str = ""
    parameters: dict[str, Any] = {}


class ToolCall(Struct, frozen=True):
    """A tool that the model wants called; `arguments` is the text that it sent, JSON or not."""

    id: str
    name: str
    arguments: str


def new_call_id() -> str:
    """An id for a call of a tool that came without one of its own."""
    return f"call_{uuid4().hex}"


class Answer(Struct, frozen=True):
    """A whole answer. The counts of tokens are those that the model reports, 0 where it reports none."""

    text: str
    calls: tuple[ToolCall, ...] = ()
    finish_reason: str = "stop"
    input_tokens: int = 0
    output_tokens: int = 0


class Model(Protocol):
    """A language model."""

    async def ask(self, question: Question, say: Callable[[str], None]) -> Answer:
        """Ask, and hand each piece of text to `say` as it comes. Raises ModelError."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
