"""W10: clients that go away at any moment of a request leave nothing open behind them."""

from __future__ import annotations

import asyncio
from random import Random
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.faults.checker import check, count
from tests.faults.conftest import Report
from tests.faults.load import Load
from tests.faults.paced_server import paced
from tests.faults.restarted_server import mortal_server
from tests.faults.stored import find_damage, read_database
from tests.process.http_client import HttpClient, http_client

# Requests that are broken off, so many at a time.
BROKEN, AT_A_TIME = 200, 20
# Seconds: the longest that a client stays, and the longest that what it left may take.
LONGEST_STAY, SETTLED_WITHIN = 0.05, 10.0
# A stream without news finds its reader gone at its next heartbeat: here after 1.5 s.
PACED = paced(heartbeat=1.5, listening=0.1)
BODY = b'{"role":"user","content":"gone"}'
IN_TRANSACTION = "SELECT count(*) FROM pg_stat_activity WHERE state ~ 'idle in transaction'"


@pytest.mark.rounds(1)
async def test_w10_clients_that_disconnect_at_any_moment_leave_nothing_open(
    database_url: str, rounds: int, seed: int, report: Report
) -> None:
    chance = Random(seed)
    async with mortal_server({"DB_URL": database_url}, command=PACED) as server:
        load = Load([server.target], seed=seed)
        async with http_client(server.target.url) as client, load.running():
            await client.post("/sessions", {"session_id": "gone"})
            turns = asyncio.Semaphore(AT_A_TIME)
            await asyncio.gather(
                *(break_off(server.target.url, chance, turns) for _ in range(BROKEN * rounds))
            )
            assert (await client.get("/health/ready"))["status"] == "ok"
        async with http_client(server.target.url) as client:
            await wait_until_settled(client, database_url)
        assert await server.stop() == 0
        assert "Traceback" not in server.process.log
    stored = read_database(database_url)
    findings = check(load.journal, stored) + find_damage(database_url)
    report(
        broken_off=BROKEN * rounds,
        stored_all_the_same=len(stored["gone"].messages),
        acknowledged=load.journal.count("acknowledged"),
        lost=count(findings, "lost"),
    )
    assert not [finding for finding in findings if "gone" not in finding], findings[:20]
    # Each is there whole, or not at all.
    assert {content for _, content in stored["gone"].messages} == {"gone"}


async def break_off(url: str, chance: Random, turns: asyncio.Semaphore) -> None:
    """Send a request, all of it or a part, and go away without a word, perhaps in mid-answer."""
    requests = (
        b"POST /sessions/gone/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY),
        b"GET /sessions/gone/messages?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /sessions/gone/events HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /sessions/gone/history HTTP/1.1\r\nHost: localhost\r\n\r\n",
    )
    request = chance.choice(requests)
    sent = request if chance.random() < 0.7 else request[: chance.randrange(len(request))]
    stay = chance.uniform(0, LONGEST_STAY)
    async with turns:
        _, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
        writer.write(sent)
        await asyncio.sleep(stay)
        writer.transport.abort()


async def wait_until_settled(client: HttpClient, url: str) -> None:
    """No stream, no connection of the pool and no transaction is in use any more."""
    async with asyncio.timeout(SETTLED_WITHIN):
        while await client.read_metric("sse_streams") or await busy(client) or in_transaction(url):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def busy(client: HttpClient) -> float:
    return await client.read_metric('pool_connections{state="busy"}')


def in_transaction(url: str) -> bool:
    if url.startswith("sqlite"):
        return False
    with psycopg.connect(url, autocommit=True) as admin:
        return admin.execute(IN_TRANSACTION).fetchone() != (0,)
