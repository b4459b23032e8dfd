"""Many servers that start at once."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

from tests.process.http_client import http_client
from tests.support.server_process import ServerProcess

SERVERS = 10
MIGRATIONS = sorted(
    path.stem
    for path in (Path(__file__).parents[2] / "migrations" / "postgres").glob("*.sql")
    if not path.stem.endswith(".rollback")
)


async def test_of_ten_servers_on_an_empty_postgres_one_migrates_and_all_serve(
    empty_postgres_url: str,
) -> None:
    env = {"DB_URL": empty_postgres_url, "POOL_MIN": "1", "POOL_MAX": "2"}
    with ExitStack() as stack:
        servers = [stack.enter_context(ServerProcess(env)) for _ in range(SERVERS)]
        for server in servers:
            server.wait_until_listening()
            async with http_client(server.url) as client:
                assert (await client.get("/health/ready"))["status"] == "ok"
        logs = [re.findall(r"applied migration (\S+)", server.log) for server in servers]
    assert [applied for applied in logs if applied] == [MIGRATIONS]
