"""An owner is erased beside other work: killed, stopped, on a full disk, and repeated."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest

from runtime.store.store import open_store
from tests.faults.checker import check, count
from tests.faults.conftest import Report
from tests.faults.disks import ballast, small_disk
from tests.faults.load import Load
from tests.faults.restarted_server import MortalServer, mortal_server
from tests.faults.stored import find_damage, read_database
from tests.migrations.catalogue import query
from tests.support.database_locks import execute
from tests.support.long_sessions import make_session
from tests.support.marked_owner_rows import MARK, OWNER, fill, tables_with

KEY = "internal-key-0123456789"
INTERNAL = {"X-Internal-Auth": KEY}
ACTING = {**INTERNAL, "X-Owner": OWNER}
NOTHING = {"owner": OWNER, "sessions": 0, "messages": 0, "tokens": 0}
LENGTH, SMALL = 60_000, 1_000
PATIENCE = 120


async def prepare(url: str, length: int = LENGTH, small: int = 0) -> None:
    """A database in which the owner has a long session, so many small ones, and one of everything."""
    async with open_store(url) as store:
        await fill(store)
        messages = [{"role": "user", "content": MARK}] * 3
        for number in range(small):
            name = f"{MARK} {number}"
            await store.create_session(name, owner=OWNER, messages=messages, idempotency_key=name)
    await make_session(url, f"{MARK} long", length)
    # Without statistics, as the program runs on SQLite.
    give = f"UPDATE sessions SET owner = '{OWNER}' WHERE owner = ''"
    await execute(url, f"{give}; DELETE FROM sqlite_stat1;", give)


async def make_more(http: aiohttp.ClientSession, url: str, name: str, sessions: int) -> None:
    """Many small sessions of the owner, each with a key."""
    body = {"messages": [{"role": "user", "content": MARK}] * 3}

    async def make(number: int) -> None:
        headers = {**ACTING, "Idempotency-Key": f"{MARK}-{name}-{number}"}
        async with http.put(f"{url}/sessions/{MARK}-{name}-{number}", json=body, headers=headers) as reply:
            assert reply.status == 201, await reply.text()

    await asyncio.gather(*map(make, range(sessions)))


async def erase(http: aiohttp.ClientSession, url: str) -> tuple[int, Any]:
    """The status and the body of an erasing; 0 where the connection breaks."""
    try:
        async with http.delete(f"{url}/owners/{OWNER}", headers=INTERNAL) as reply:
            return reply.status, await reply.json(content_type=None)
    except aiohttp.ClientError:
        return 0, None


@pytest.mark.rounds(10)
async def test_killed_at_random_moments_and_repeated_it_is_right(
    database_url: str, rounds: int, seed: int, report: Report
) -> None:
    await prepare(database_url)
    random, interrupted = Random(seed), 0
    async with (
        mortal_server({"DB_URL": database_url, "INTERNAL_API_KEY": KEY}) as server,
        aiohttp.ClientSession() as http,
    ):
        load = Load([server.target], seed=seed, headers=INTERNAL)
        async with load.running(), asyncio.timeout(PATIENCE):
            for number in range(rounds):
                await make_more(http, server.target.url, f"round-{number}", 30)
                erasing = asyncio.create_task(erase(http, server.target.url))
                await asyncio.sleep(random.uniform(0, 0.2))
                await server.kill(load.journal)
                interrupted += (await erasing)[0] == 0
                await server.start()
            status, _ = await erase(http, server.target.url)
            assert status == 200
            assert await erase(http, server.target.url) == (200, NOTHING)
            assert tables_with(database_url) == {}
        assert await server.stop() == 0
    findings = check(load.journal, read_database(database_url)) + find_damage(database_url)
    report(
        rounds=rounds,
        interrupted=interrupted,
        acknowledged=load.journal.count("acknowledged"),
        lost=count(findings, "lost"),
        doubled=count(findings, "doubled"),
    )
    assert not findings, "\n".join(findings[:20])
    assert interrupted > 0, "it was killed too late to show anything"
    assert tables_with(database_url) == {}


async def append_until(http: aiohttp.ClientSession, url: str, done: asyncio.Event) -> list[float]:
    """Append to a session of another owner all the time; the seconds that each append took."""
    waits = []
    while not done.is_set():
        began = time.monotonic()
        body = {"role": "user", "content": "x"}
        async with http.post(f"{url}/sessions/other/messages", json=body, headers=INTERNAL) as reply:
            assert reply.status == 201
        waits.append(time.monotonic() - began)
    return waits


async def test_r7_others_write_while_an_owner_is_erased(database_url: str, report: Report) -> None:
    await prepare(database_url, small=SMALL)
    done = asyncio.Event()
    async with (
        mortal_server({"DB_URL": database_url, "INTERNAL_API_KEY": KEY}) as server,
        aiohttp.ClientSession() as http,
    ):
        url = server.target.url
        async with http.put(f"{url}/sessions/other", headers=INTERNAL) as reply:
            assert reply.status == 201
        writing = asyncio.create_task(append_until(http, url, done))
        began = time.monotonic()
        status, erased = await erase(http, url)
        seconds = time.monotonic() - began
        done.set()
        waits = await writing
        assert (status, erased["sessions"]) == (200, SMALL + 4)
        assert tables_with(database_url) == {}
        assert await server.stop() == 0
    report(rows=LENGTH, sessions=SMALL, seconds=seconds, others=len(waits), worst_wait=max(waits))
    # In portions: in one transaction somebody would have waited for nearly all of that time.
    assert max(waits) < seconds / 2
    assert len(waits) > 10


async def test_w11_sigterm_ends_it_with_a_clear_answer_and_a_repeat_goes_on(database_url: str) -> None:
    await prepare(database_url)
    async with (
        mortal_server({"DB_URL": database_url, "INTERNAL_API_KEY": KEY}) as server,
        aiohttp.ClientSession() as http,
    ):
        erasing = asyncio.create_task(erase(http, server.target.url))
        long = f"SELECT id FROM sessions WHERE session_id = '{MARK} long'"
        rows = f"SELECT count(*) FROM messages WHERE session_db_id IN ({long})"
        async with asyncio.timeout(PATIENCE):
            while query(database_url, rows)[0][0] == LENGTH:  # noqa: ASYNC110 - no event says so
                await asyncio.sleep(0.005)
        assert await server.stop() == 0, server.process.log
        status, problem = await erasing
        assert (status, problem["code"]) == (503, "shutting_down")
        assert query(database_url, rows)[0][0] > 0, "it was stopped too late to show anything"
        assert "Traceback" not in server.process.log
        await server.start()
        assert (await erase(http, server.target.url))[0] == 200
        assert tables_with(database_url) == {}
        assert await server.stop() == 0


async def test_a_full_disk_is_a_clear_answer_and_a_repeat_goes_on(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        url = f"sqlite:///{disk}/agent_runtime.db"
        async with open_store(url):
            pass
        await prepare(url, 20_000)
        settings = {"DB_URL": url, "INTERNAL_API_KEY": KEY, "WRITE_TIMEOUT": "2"}
        async with mortal_server(settings) as server, aiohttp.ClientSession() as http:
            await check_full_disk(http, server, disk)
            assert await erase(http, server.target.url) == (200, NOTHING)
            assert tables_with(url) == {}
            assert await server.stop() == 0
        assert find_damage(url) == []


async def check_full_disk(http: aiohttp.ClientSession, server: MortalServer, disk: Path) -> None:
    with ballast(disk):
        async with asyncio.timeout(PATIENCE):
            status, problem = await erase(http, server.target.url)
        assert status == 503, problem
        assert problem["code"] in ("not_stored", "database_unavailable")
    async with asyncio.timeout(PATIENCE):
        while (await erase(http, server.target.url))[0] == 503:  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(0.1)
    assert "Traceback" not in server.process.log
    assert "full" in server.process.log
