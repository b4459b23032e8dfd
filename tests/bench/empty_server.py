"""An aiohttp server that does nothing and answers as ours does: the floor of `http`.

    python -m tests.bench.empty_server

says on stderr where it listens, and serves until it is killed. An append is parsed; what is got is as many
bytes as the path says.
"""

from __future__ import annotations

import asyncio
import functools
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


async def page(request: web.Request) -> web.Response:
    """Answer."""
    return web.Response(body=json_of(request.match_info["size"]), content_type="application/json")


@functools.cache
def json_of(size: str) -> bytes:
    """JSON of so many bytes."""
    return msgspec.json.encode("x" * (int(size) - len('""')))


async def serve() -> None:
    """Until the process is killed."""
    app = web.Application()
    app.router.add_post("/sessions/{session_id}/messages", append)
    app.router.add_get("/bytes/{size}", page)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"listening on http://127.0.0.1:{runner.addresses[0][1]}", file=sys.stderr, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    loops.run(serve())
