"""A model whose words say when they were sent, and a bare relay to it that stores nothing, as processes:

    python -m tests.bench.timed_model model WORDS PAUSE
    python -m tests.bench.timed_model relay URL

The model answers every question with so many words, one every `pause` seconds. The relay parses what the
model sends, passes it on as the events of a turn, and does nothing else: the floor of `turns`.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Iterable

import aiohttp
import msgspec
from aiohttp import web

from tests.bench import loops
from tests.support.model_server import chunk, end

# A word is six digits: the hundred-thousandths of a second since the clock stood at a multiple of ten.
UNIT, DIGITS = 1e-5, 6
PERIOD = UNIT * 10**DIGITS
TOKENS = re.compile(rb'"token":"([\d ]*)"')
DATA = re.compile(rb'data: (\{.*?"content".*?\})\n\n')


def word() -> str:
    """A word that is sent now."""
    return f"{int(time.time() % PERIOD / UNIT):0{DIGITS}} "


def delays(events: bytes) -> Iterable[float]:
    """For each word in the events of a turn: the seconds since it was sent."""
    now = time.time()
    for tokens in TOKENS.findall(events):
        for sent in tokens.split():
            yield (now - int(sent) * UNIT) % PERIOD


async def start(request: web.Request) -> web.StreamResponse:
    """A stream of events that has begun."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    return response


class TimedModel:
    """Answers chat completions."""

    def __init__(self, words: str, pause: str) -> None:
        self._words = int(words)
        self._pause = float(pause)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The handler. A word that is late does not delay those after it."""
        await request.read()
        response = await start(request)
        loop = asyncio.get_running_loop()
        begun_at = loop.time()
        for number in range(self._words):
            await asyncio.sleep(max(0.0, begun_at + number * self._pause - loop.time()))
            await response.write(chunk({"content": word()}))
        await response.write(b"".join(end("stop", (1, self._words))))
        return response


class Relay:
    """Passes on what the model says."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/chat/completions"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The handler."""
        await request.read()
        response = await start(request)
        received = b""
        async with aiohttp.ClientSession() as http, http.post(self._url, json={}) as model:
            async for piece in model.content.iter_any():
                whole, separator, received = (received + piece).rpartition(b"\n\n")
                if events := b"".join(map(_event, DATA.findall(whole + separator))):
                    await response.write(events)
        await response.write(b"event: done\ndata: {}\n\n")
        return response


def _event(data: bytes) -> bytes:
    text = msgspec.json.decode(data)["choices"][0]["delta"]["content"]
    token = msgspec.json.encode({"type": "assistant_message", "token": text, "is_final": False})
    return b"event: message\ndata: %b\n\n" % token


async def serve(server: TimedModel | Relay) -> None:
    """Until the process is killed."""
    app = web.Application(client_max_size=2**30)
    app.router.add_post("/{path:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    print(f"listening on http://127.0.0.1:{runner.addresses[0][1]}", file=sys.stderr, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    kind, *arguments = sys.argv[1:]
    loops.run(serve({"model": TimedModel, "relay": Relay}[kind](*arguments)))
