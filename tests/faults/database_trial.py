"""A load on a server whose Postgres is in trouble, and what came of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tests.faults.checker import check, count
from tests.faults.conftest import Report
from tests.faults.load import Load
from tests.faults.restarted_server import mortal_server
from tests.faults.stored import find_damage, read_database

SETTINGS = {"WRITE_TIMEOUT": "2", "POOL_TIMEOUT": "1", "COMMAND_TIMEOUT": "1", "POOL_MAX": "5"}
# Seconds. No request waits longer for its answer, whatever that is.
ANSWERED_WITHIN = 4.0
RECOVERED_WITHIN = 10.0
# So many writes are stored before a trouble, and after it.
WRITES = 100
ALL_WELL = {"database": "ok", "migrations": "ok", "writer": "ok"}


class Trial:
    """`recoveries` are the seconds that it took until a write was stored again, after each trouble."""

    def __init__(self, load: Load, http: aiohttp.ClientSession) -> None:
        self.load = load
        self.recoveries: list[float] = []
        self._http = http

    async def wait_for_writes(self, number: int = WRITES) -> float:
        """Wait until so many more are stored; the seconds until the first was."""
        began = time.monotonic()
        async with asyncio.timeout(60):
            await self.load.work(1)
            seconds = time.monotonic() - began
            await self.load.work(number - 1)
        return seconds

    async def recover(self) -> None:
        """Wait until all goes on as before."""
        self.recoveries.append(await self.wait_for_writes())

    async def get(self, path: str) -> tuple[int, Any]:
        """The status and the body of a reply."""
        url = await self.load.targets[0].wait()
        async with asyncio.timeout(ANSWERED_WITHIN), self._http.get(url + path) as reply:
            return reply.status, await reply.json()


@asynccontextmanager
async def trial(
    url: str, real_url: str, seed: int, report: Report, settings: Mapping[str, str] = SETTINGS, **options: Any
) -> AsyncIterator[Trial]:
    """A server on `url`, which is `real_url` for the others, with a load. `options` are those of the load.

    At the end nothing may be lost, doubled or hung, and all must be well again.
    """
    async with aiohttp.ClientSession() as http, mortal_server({"DB_URL": url, **settings}) as server:
        options = {"writers": 8, "readers": 4, "timeout": ANSWERED_WITHIN, **options}
        load = Load([server.target], seed=seed, **options)
        made = Trial(load, http)
        async with load.running():
            yield made
        assert await made.get("/health/ready") == (200, {"status": "ok", "checks": ALL_WELL})
        assert await server.stop() == 0
        assert "Traceback" not in server.process.log
    findings = check(load.journal, read_database(real_url)) + find_damage(real_url)
    report(
        acknowledged=load.journal.count("acknowledged"),
        refusals=sum(load.journal.refusals.values()),
        **{rule: count(findings, rule) for rule in ("lost", "doubled", "refused", "hung")},
        recovery_s=max(made.recoveries),
    )
    assert not findings, "\n".join(findings[:20])
    assert max(made.recoveries) < RECOVERED_WITHIN
