"""W11: the end of a server whose database does not answer any more."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import aiohttp
import psycopg
import pytest

from tests.faults.asking import Answer, Asker, Target
from tests.faults.conftest import Report
from tests.faults.journal import Journal
from tests.faults.own_postgres import OwnPostgres, run_own_postgres
from tests.faults.stored import read_database
from tests.process.http_client import http_client
from tests.support.model_server import ModelServer, model_server, silence
from tests.support.server_process import ServerProcess

# How far the end may come after the deadline, in seconds: the interpreter has to end as well.
MARGIN = 0.5
# Writes that were accepted before the database froze, and that are asked for afterwards.
ACCEPTED, ASKED = 30, 20
READS = 20
# A turn that runs has its end to store.
LOST = ACCEPTED + ASKED + 1
TURN = {"session_id": "s", "message": {"type": "user_message", "content": "Why?"}}
PATIENCE = 60.0
COUNTED = r"(\d+) writes could not be stored, or were not confirmed"
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


@pytest.fixture
def postgres() -> Iterator[OwnPostgres]:
    with run_own_postgres() as server:
        yield server


@pytest.mark.parametrize(
    ("moment", "seconds"),
    [("before a transaction", 3.0), ("in a transaction", 3.0), ("in a transaction", 6.0)],
)
async def test_w11_sigterm_with_frozen_postgres_ends_at_the_deadline(
    postgres: OwnPostgres, report: Report, seconds: float, moment: str
) -> None:
    async with silent_model() as model, http_session() as http:
        with ServerProcess(settings(postgres, model.url, seconds)) as server:
            await asyncio.to_thread(server.wait_until_listening)
            asker, target = Asker(http, Journal(), {}, PATIENCE), Target("server", server.url)
            turn = asyncio.create_task(asker.ask(target, "POST", "/agent/message/stream", TURN))
            async with asyncio.timeout(PATIENCE):
                await model.wait_for_requests(1)
            await accept(asker, target)
            with frozen(postgres, moment) as freeze:
                writes = ask_for_writes(asker, target)
                await freeze(server.url)
                reads = ask_for_reads(asker, target)
                started = time.monotonic()
                server.send(signal.SIGTERM)
                status = await asyncio.to_thread(server.wait)
                took = time.monotonic() - started
            answers = await asyncio.gather(*writes)
            await asyncio.gather(turn, *reads)
    counted = [int(number) for number in re.findall(COUNTED, server.log)]
    report(seconds=took, of=seconds, counted=sum(counted))
    assert status == 1
    assert took < seconds + MARGIN
    assert "Traceback" not in server.log
    assert counted == [LOST]
    stored = {content for _, content in read_database(postgres.url)["s"].messages}
    assert not stored & {str(n) for n, answer in enumerate(answers) if answer.fate == "refused"}
    assert {answer.fate for answer in answers} <= {"refused", "unknown"}


def settings(postgres: OwnPostgres, model: str, seconds: float) -> dict[str, str]:
    return {
        "DB_URL": postgres.url,
        "LLM_URL": model,
        "SHUTDOWN_TIMEOUT": str(seconds),
        # Nobody is answered before the end, and nothing is flushed before the database freezes.
        "WRITE_TIMEOUT": "60",
        "FLUSH_INTERVAL": "60",
        # What is indexed is a write too, and has accepted ones stored with it.
        "SEARCH": "off",
    }


@asynccontextmanager
async def silent_model() -> AsyncIterator[ModelServer]:
    """A model that never says a word."""
    async with model_server(lambda _: silence(asyncio.Event())) as server:
        yield server


@asynccontextmanager
async def http_session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        yield http


@contextmanager
def frozen(postgres: OwnPostgres, moment: str) -> Iterator[Callable[[str], Awaitable[None]]]:
    """Freezes it when it is called, once all writes wait; before or in the transaction of a batch."""
    with psycopg.connect(postgres.url) as obstacle:
        if moment == "in a transaction":
            obstacle.execute("LOCK TABLE writers IN ACCESS EXCLUSIVE MODE")
        else:
            postgres.freeze()

        async def freeze(url: str) -> None:
            await wait_until_pending(url)
            if moment == "in a transaction":
                await wait_until_locked(obstacle)
                postgres.freeze()

        yield freeze
        postgres.thaw()


async def accept(asker: Asker, target: Target) -> None:
    for n in range(ACCEPTED):
        headers = {"Prefer": "respond-async"}
        answer = await asker.ask(target, "POST", "/sessions/s/messages", user(f"accepted {n}"), headers)
        assert answer.fate == "accepted"


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def ask_for_writes(asker: Asker, target: Target) -> list[asyncio.Task[Answer]]:
    path = "/sessions/s/messages"
    asked = [asker.ask(target, "POST", path, user(str(n))) for n in range(ASKED)]
    return [*map(asyncio.create_task, asked)]


def ask_for_reads(asker: Asker, target: Target) -> list[asyncio.Task[Answer]]:
    paths = ["/sessions/other/messages", "/sessions/other/events", "/sessions/s/history", "/sessions"]
    asked = [asker.ask(target, "GET", path) for path in paths for _ in range(READS // len(paths))]
    return [*map(asyncio.create_task, asked)]


async def wait_until_pending(url: str) -> None:
    async with asyncio.timeout(PATIENCE), http_client(url) as client:
        while await client.read_metric("pending_writes") < ACCEPTED + ASKED:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def wait_until_locked(admin: psycopg.Connection[tuple[int]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while admin.execute(WAITING).fetchone() == (0,):  # noqa: ASYNC110 - a database has no event
            await asyncio.sleep(0.01)
