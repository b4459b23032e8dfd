"""A client of a model's server, as the tests ask it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from runtime.agents.chat_completions import ChatCompletions
from runtime.agents.model import Answer, Question, ToolCall
from runtime.errors import ModelError
from tests.support.model_server import Reply, model_server

Json = Any

KEY = "sk-secret"
QUESTION = Question([{"role": "user", "content": "hello"}], [])
CALLS = (ToolCall("a", "read_file", '{"path": "grün.md"}'), ToolCall("b", "list_files", '{"path": "."}'))
PATIENCE = 30.0


class Asking:
    """A client of a server, with what it said and how long it paused."""

    def __init__(self, url: str, *, retries: int = 0, timeout: float = PATIENCE, draw: float = 1.0) -> None:
        self.said: list[str] = []
        self.pauses: list[float] = []
        self.heard = asyncio.Event()
        self.model = ChatCompletions(
            url,
            KEY,
            "usual",
            connect_timeout=PATIENCE,
            timeout=timeout,
            retries=retries,
            sleep=self._sleep,
            draw=lambda: draw,
        )

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def _say(self, piece: str) -> None:
        self.said.append(piece)
        self.heard.set()

    async def ask(self, question: Question = QUESTION) -> Answer:
        return await self.model.ask(question, self._say)

    async def fail(self, kind: type[ModelError]) -> str:
        """The message of the error, which must be of this kind."""
        with pytest.raises(kind) as caught:
            await self.ask()
        assert KEY not in str(caught.value)
        assert "\n" not in str(caught.value)
        return str(caught.value)


@asynccontextmanager
async def asking(url: str, **options: Any) -> AsyncIterator[Asking]:
    client = Asking(url, **options)
    try:
        yield client
    finally:
        await client.model.close()


async def message(kind: type[ModelError], *replies: Reply, retries: int = 0) -> str:
    """What the error says that these replies lead to; all of them must be asked for."""
    async with model_server(replies) as server, asking(server.url, retries=retries) as client:
        said = await client.fail(kind)
        assert len(server.requests) == len(replies)
        return said


async def answer_to(*replies: Reply) -> Answer:
    """The answer that comes, though the server may be asked as often as there are replies."""
    async with (
        model_server(replies) as server,
        asking(server.url, retries=len(replies) - 1) as client,
    ):
        answer = await client.ask()
        assert answer.text == "".join(client.said)
        return answer


@asynccontextmanager
async def tcp_server(serve: Callable[..., Any]) -> AsyncIterator[str]:
    """The URL of a server that is no HTTP server unless it behaves like one."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def read_request(reader: asyncio.StreamReader) -> None:
    """Read one request with its body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    await reader.readexactly(int(head.split("content-length:")[1].split("\r\n")[0]))
