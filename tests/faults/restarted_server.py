"""A server that is killed and started again on the same database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from tests.faults.asking import Target
from tests.faults.journal import Journal
from tests.support.server_process import SERVE, ServerProcess


class MortalServer:
    """`target` says where it is, to the load. `starts` are the seconds that each start took."""

    def __init__(self, env: Mapping[str, str], name: str = "server", command: Sequence[str] = SERVE) -> None:
        self.target = Target(name)
        self.starts: list[float] = []
        self._env = {"ACCESS_LOG": "off", **env}
        self._command = command
        self._process: ServerProcess | None = None

    @property
    def process(self) -> ServerProcess:
        """The one that lives now, or lived last."""
        assert self._process is not None, "it was never started"
        return self._process

    async def start(self) -> None:
        """Start it, and wait until it listens."""
        began = time.monotonic()
        self._process = ServerProcess(self._env, command=self._command)
        await asyncio.to_thread(self._process.wait_until_listening)
        self.starts.append(time.monotonic() - began)
        self.target.move(self._process.url)

    async def kill(self, journal: Journal) -> None:
        """`kill -9`; nobody is sent there any more."""
        life = self.target.life
        await asyncio.to_thread(self.process.kill)
        journal.note_kill(life)
        self.target.move("")

    async def stop(self) -> int:
        """SIGTERM; its exit status."""
        return await asyncio.to_thread(self.process.stop)


@asynccontextmanager
async def mortal_server(
    env: Mapping[str, str], name: str = "server", command: Sequence[str] = SERVE
) -> AsyncIterator[MortalServer]:
    """One that listens; it is dead at the end, whatever happens. Its log is shown where the test fails."""
    server = MortalServer(env, name, command)
    try:
        await server.start()
        yield server
    except BaseException:
        print(server.process.log)
        raise
    finally:
        if server._process is not None:
            server.process.kill()
