"""An aiohttp server that parses an append and answers as ours does, and does nothing: the floor of `http`.

    python -m tests.bench.empty_server

says on stderr where it listens, and serves until it is killed.
"""

from __future__ import annotations

import asyncio
import sys

import msgspec
from aiohttp import web

from tests.bench import loops

REPLY = {
    "session_id": "session",
    "messages": [{"seq": 1, "timestamp": "2026-01-01T00:00:00Z"}],
    "last_seq": 1,
    "version": 2,
}


async def append(request: web.Request) -> web.Response:
    """Parse the body; answer."""
    msgspec.json.decode(await request.read())
    return web.Response(body=msgspec.json.encode(REPLY), status=201, content_type="application/json")


async def serve() -> None:
    """Until the process is killed."""
    app = web.Application()
    app.router.add_post("/sessions/{session_id}/messages", append)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"listening on http://127.0.0.1:{runner.addresses[0][1]}", file=sys.stderr, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    loops.run(serve())
