"""A chat-completions server on loopback that says what a test has written down for it.

    async with model_server([says("Hel", "lo"), status(429, retry_after="1")]) as server:
        ... ask at server.url; what was asked is in server.requests

`python -m tests.support.model_server` is one as a process of its own: it answers everything with slow words.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp import web
from multidict import CIMultiDictProxy

from runtime.agents.model import ToolCall
from tests.support.loopback import listening

Json = Any

USAGE = (12, 5)
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Reply:
    """What one request is answered with; each piece is written by itself.

    A `gate` is released by the test once for each piece. Behind the last piece the server is silent until
    `hold` is set, and then ends the reply well, or breaks the connection where it is to `cut` it.
    """

    pieces: Sequence[bytes]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "text/event-stream"})
    gate: asyncio.Semaphore | None = None
    hold: asyncio.Event | None = None
    cut: bool = False
    pause: float = 0.0


def event(data: Json) -> bytes:
    """One event with this as its data."""
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


def chunk(delta: Json, finish_reason: str | None = None, usage: tuple[int, int] | None = None) -> bytes:
    """The event of one chunk."""
    body: Json = {"object": "chat.completion.chunk", "choices": [_choice(delta, finish_reason)]}
    return event({**body, "usage": _usage(usage)} if usage else body)


def _choice(delta: Json, finish_reason: str | None) -> Json:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason}


def _usage(counts: tuple[int, int]) -> Json:
    return {"prompt_tokens": counts[0], "completion_tokens": counts[1], "total_tokens": sum(counts)}


def text(*pieces: str) -> list[bytes]:
    """Chunks of text."""
    return [chunk({"content": piece}) for piece in pieces]


def fragments(*tool_calls: ToolCall, size: int = 8) -> list[bytes]:
    """Chunks of tool calls, with `size` characters of arguments in each."""
    return [piece for index, call in enumerate(tool_calls) for piece in _fragments(index, call, size)]


def _fragments(index: int, call: ToolCall, size: int) -> list[bytes]:
    head = {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
    cuts = range(0, len(call.arguments), size)
    parts = [{"function": {"arguments": call.arguments[cut : cut + size]}} for cut in cuts]
    return [chunk({"tool_calls": [{"index": index, **part}]}) for part in [head, *parts]]


def end(finish_reason: str, usage: tuple[int, int] | None = USAGE) -> list[bytes]:
    """What stands behind an answer: its finish reason, the usage in a chunk of its own, and [DONE]."""
    counted = [event({"choices": [], "usage": _usage(usage)})] if usage else []
    return [chunk({}, finish_reason), *counted, DONE]


def says(
    *pieces: str,
    finish_reason: str = "stop",
    usage: tuple[int, int] | None = USAGE,
    gate: asyncio.Semaphore | None = None,
    pause: float = 0.0,
) -> Reply:
    """A whole answer of text. A gate is released once for each piece, and once for the end."""
    return Reply(
        [*text(*pieces), b"".join(end(finish_reason, usage))],
        gate=gate,
        pause=pause,
    )


def calls(
    *tool_calls: ToolCall,
    before: Sequence[str] = (),
    size: int = 8,
    usage: tuple[int, int] | None = USAGE,
    gate: asyncio.Semaphore | None = None,
) -> Reply:
    """A whole answer that calls tools, perhaps with text before. A gate works as with `says`."""
    pieces = [*text(*before), *fragments(*tool_calls, size=size)]
    return Reply([*pieces, b"".join(end("tool_calls", usage))], gate=gate)


def raw(*pieces: bytes, content_type: str = "text/event-stream") -> Reply:
    """These bytes."""
    return Reply(pieces, headers={"Content-Type": content_type})


def cut_after(*pieces: str) -> Reply:
    """Text, and then the connection breaks."""
    return Reply(text(*pieces), cut=True)


def silence(hold: asyncio.Event, *pieces: str) -> Reply:
    """Text, and then nothing until `hold` is set."""
    return Reply(text(*pieces), hold=hold)


def status(number: int, message: str = "not now", *, retry_after: str | None = None, **headers: str) -> Reply:
    """A refusal in the form of OpenAI."""
    if retry_after is not None:
        headers["Retry-After"] = retry_after
    body = json.dumps({"error": {"message": message, "type": "test"}}).encode()
    return Reply([body], number, {"Content-Type": "application/json", **headers})


def html(number: int = 502, page: str = "<!DOCTYPE html><html><body>Bad gateway</body></html>") -> Reply:
    """What stands before a model's server may answer with a page."""
    return Reply([page.encode()], number, {"Content-Type": "text/html; charset=utf-8"})


Script = Sequence[Reply] | Callable[[Json], Reply]


class Asked(NamedTuple):
    """A request."""

    path: str
    body: Json
    headers: CIMultiDictProxy[str]


class ModelServer:
    """The running server. `left` counts the clients that went before the end of their reply."""

    def __init__(self, script: Script) -> None:
        self.url = ""
        self.requests: list[Asked] = []
        self.left = 0
        self._script = script
        self._news = asyncio.Condition()

    async def wait_for_requests(self, number: int) -> None:
        """Wait until so many were asked in all."""
        async with self._news:
            await self._news.wait_for(lambda: len(self.requests) >= number)

    async def wait_until_left(self, number: int = 1) -> None:
        """Wait until so many clients have gone before the end."""
        async with self._news:
            await self._news.wait_for(lambda: self.left >= number)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The handler of every request."""
        body = await request.json()
        self.requests.append(Asked(request.path, body, request.headers))
        reply = self._next(body)
        await self._tell()
        try:
            return await _send(reply, request)
        except (asyncio.CancelledError, ConnectionError):
            self.left += 1
            await self._tell()
            raise

    def _next(self, body: Json) -> Reply:
        if callable(self._script):
            return self._script(body)
        number = len(self.requests)
        if number > len(self._script):
            return status(400, f"the script of the test has no reply to request {number}")
        return self._script[number - 1]

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()


async def _send(reply: Reply, request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(status=reply.status, headers=reply.headers)
    await response.prepare(request)
    for piece in reply.pieces:
        await _wait_before(reply)
        await response.write(piece)
    if reply.hold:
        await reply.hold.wait()
    if reply.cut and request.transport:
        request.transport.close()
    else:
        await response.write_eof()
    return response


async def _wait_before(reply: Reply) -> None:
    if reply.gate:
        await reply.gate.acquire()
    # A real pause, where a process is to be slow; tests use a gate.
    if reply.pause:
        await asyncio.sleep(reply.pause)


@asynccontextmanager
async def model_server(script: Script) -> AsyncIterator[ModelServer]:
    """A server that takes its replies from the script: in order, or as a function of what is asked."""
    server = ModelServer(script)
    app = web.Application(client_max_size=2**30)
    app.router.add_post("/{path:.*}", server.answer)
    async with listening(app) as url:
        server.url = url
        yield server


async def serve_words(port_file: Path | None, words: int, pause: float) -> None:
    """Answer every request with `w1 w2 …`, a word every `pause` seconds, until the process is ended."""
    answer = says(*(f"w{number} " for number in range(1, words + 1)), usage=(1, words), pause=pause)
    async with model_server(lambda _: answer) as server:
        if port_file:
            # Renamed into place: who waits for the file never reads half of it.
            unfinished = port_file.with_name(port_file.name + ".new")
            unfinished.write_text(server.url.rpartition(":")[2])
            os.replace(unfinished, port_file)
        print(f"listening on {server.url}", file=sys.stderr, flush=True)
        await asyncio.Event().wait()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.model_server")
    parser.add_argument("--port-file", type=Path, help="where the port is written once it listens")
    parser.add_argument("--words", type=int, default=100, help="words in an answer")
    parser.add_argument("--pause", type=float, default=0.02, help="seconds before each word")
    options = parser.parse_args()
    asyncio.run(serve_words(options.port_file, options.words, options.pause))


if __name__ == "__main__":
    main()
