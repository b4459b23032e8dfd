"""Durable appends a second over HTTP, and what an aiohttp server reaches that does nothing."""

from __future__ import annotations

import asyncio
import functools
import sys
from contextlib import ExitStack

from tests.bench.databases import Databases
from tests.bench.measuring import Measure, print_rates, take_turns
from tests.process.http_client import http_client
from tests.server_process import ServerProcess, start_server

CONNECTIONS = 128
SESSIONS = [f"session-{number}" for number in range(50)]
EMPTY_SERVER = (sys.executable, "-m", "tests.bench.empty_server")


async def run(databases: Databases, *, rounds: int, seconds: float) -> None:
    """Print one table: the empty server and ours on each database, taking turns."""
    with ExitStack() as stack:
        empty = stack.enter_context(ServerProcess({}, command=EMPTY_SERVER))
        empty.wait_until_listening()
        servers = {"an empty aiohttp handler": empty}
        for kind, url in (await databases.make()).items():
            env = {"DB_URL": url, "ACCESS_LOG": "off"}
            servers[kind] = stack.enter_context(start_server(env))
            await make_sessions(servers[kind].url)
        measures: dict[str, Measure] = {
            name: functools.partial(load, server.url, seconds) for name, server in servers.items()
        }
        results = await take_turns(measures, rounds)
    print_rates(f"durable appends over HTTP, {CONNECTIONS} connections, without access log", results)


async def make_sessions(url: str) -> None:
    async with http_client(url) as client:
        for session_id in SESSIONS:
            await client.post("/sessions", {"session_id": session_id})


async def load(url: str, seconds: float) -> float:
    """Replies a second that a load generator in a process of its own gets."""
    paths = [f"/sessions/{session_id}/messages" for session_id in SESSIONS]
    arguments = ("-m", "tests.bench.load", url, str(CONNECTIONS), str(seconds), *paths)
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    try:
        output, _ = await asyncio.wait_for(process.communicate(), seconds + 60)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, "the load generator failed: see above"
    return float(output)
