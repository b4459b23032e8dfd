"""The two services that are compared, ours and the usual one, as processes, and how they are asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import NamedTuple

from runtime.store.store import open_store
from tests.bench.load import send
from tests.bench.peers import environment
from tests.bench.worker import MESSAGE
from tests.support.server_process import SERVE, ServerProcess

CONNECTIONS = 32


class Service(NamedTuple):
    """A program to be started over a database of its own."""

    command: tuple[str, ...]
    settings: dict[str, str]

    def start(self) -> ServerProcess:
        """It listens when this returns."""
        server = ServerProcess(self.settings, command=self.command)
        server.wait_until_listening()
        return server

    async def time_start(self) -> float:
        """Seconds until it listens; it is stopped again."""
        started = time.perf_counter()
        with self.start() as server:
            took = time.perf_counter() - started
            server.stop()
        return took


def ours(url: str, durability: str = "committed") -> Service:
    """Our server."""
    return Service(SERVE, {"DB_URL": url, "DURABILITY": durability, "ACCESS_LOG": "off"})


def usual(url: str, mode: str = "commit") -> Service:
    """The usual one, in one of the modes that `service` explains."""
    return Service((str(environment.PYTHON), "-m", "tests.bench.usual_way.service", url, mode), {})


async def fill_usual(url: str, sessions: int, messages: int) -> Service:
    """The usual one with `session-0` and so on, of so many messages each."""
    module = "tests.bench.usual_way.fill"
    await environment.run(str(environment.PYTHON), "-m", module, url, str(sessions), str(messages))
    return usual(url)


async def fill_ours(url: str, sessions: int, messages: int) -> Service:
    """The same with ours."""
    async with open_store(url) as store:
        history = [MESSAGE] * messages
        names = [f"session-{number}" for number in range(sessions)]
        await asyncio.gather(*(store.create_session(name, messages=history) for name in names))
    return ours(url)


async def rate(url: str, requests: Iterator[bytes], seconds: float) -> float:
    """Replies a second to requests over all connections."""
    started = time.perf_counter()
    replies = await send(url, CONNECTIONS, requests, started + seconds)
    return replies / (time.perf_counter() - started)
