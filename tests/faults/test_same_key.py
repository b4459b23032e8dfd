"""One request, sent ten times at once under one key, while instances are killed: one effect (W12)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from random import Random
from typing import Any

import aiohttp
import pytest

from tests.faults.asking import Answer, Asker
from tests.faults.conftest import Report
from tests.faults.journal import Journal
from tests.faults.restarted_server import MortalServer, mortal_server
from tests.faults.stored import find_damage, read_database

AT_ONCE = 10
# How many instances there are on each database.
INSTANCES = {"sqlite": 1, "postgresql": 3}
# Seconds: a kill comes this soon after the requests; a request, with all of its repeats, takes so long.
SOON, PATIENCE = 0.03, 30.0


class Instances:
    """Servers on one database, and who asks them."""

    def __init__(self, servers: list[MortalServer], http: aiohttp.ClientSession, chance: Random) -> None:
        self.servers = servers
        self.journal = Journal()
        self.chance = chance
        self._asker = Asker(http, self.journal, {}, PATIENCE)

    async def ask(self, path: str, body: Any, key: str) -> Answer:
        """The answer, of any of them, however often it has to be asked."""
        while True:
            target = self.chance.choice(self.servers).target
            answer = await self._asker.ask(target, "POST", path, body, {"Idempotency-Key": key})
            assert not self.journal.oddities
            if answer.fate == "acknowledged":
                return answer

    async def ask_at_once(self, path: str, body: Any, key: str) -> list[Answer]:
        """The answers to the same request, sent many times, while one of those asked is killed."""
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            asked = [group.create_task(self.ask(path, body, key)) for _ in range(AT_ONCE)]
            group.create_task(self._kill_one())
        return [task.result() for task in asked]

    async def _kill_one(self) -> None:
        victim = self.chance.choice(self.servers)
        await asyncio.sleep(self.chance.uniform(0, SOON))
        await victim.kill(self.journal)
        await victim.start()


@pytest.fixture
async def instances(database_url: str, seed: int) -> AsyncIterator[Instances]:
    number = INSTANCES[database_url.partition(":")[0]]
    env = {"DB_URL": database_url}
    async with aiohttp.ClientSession() as http, AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(mortal_server(env, f"server {n}")) for n in range(number)]
        yield Instances(servers, http, Random(seed))


@pytest.mark.rounds(4)
async def test_w12_the_same_key_ten_times_at_once_has_one_effect_and_one_reply(
    instances: Instances, database_url: str, rounds: int, report: Report
) -> None:
    await instances.ask("/sessions", {"session_id": "s"}, "first")
    for n in range(rounds):
        path, body = request(n)
        check_answers(await instances.ask_at_once(path, body, f"key-{n}"))
    assert [await server.stop() for server in instances.servers] == [0] * len(instances.servers)
    check_effects(database_url, rounds)
    broken = instances.journal.refusals["0"]
    report(rounds=rounds, requests=rounds * AT_ONCE, broken=broken, effects=rounds)


def request(n: int) -> tuple[str, Any]:
    """By turns: one message, two, a handover, a session whose name the server makes."""
    message = {"role": "user", "content": f"message {n}"}
    return (
        ("/sessions/s/messages", message),
        ("/sessions/s/messages", {"messages": [message, message]}),
        ("/sessions/s/agent", {"agent": f"agent {n}"}),
        ("/sessions", {"title": f"session {n}"}),
    )[n % 4]


def check_answers(answers: list[Answer]) -> None:
    """All alike; at most one is not a repeat: that one may be the reply that a kill took along."""
    assert all((answer.status, answer.body) == (answers[0].status, answers[0].body) for answer in answers)
    assert sum(not answer.replayed for answer in answers) <= 1


def check_effects(database_url: str, rounds: int) -> None:
    stored = read_database(database_url)
    kinds = Counter(n % 4 for n in range(rounds))
    expected = [f"message {n}" for n in range(rounds) for _ in range((1, 2, 0, 0)[n % 4])]
    assert [content for _, content in stored["s"].messages] == expected
    assert [agent for _, agent in stored["s"].switches] == [f"agent {n}" for n in range(rounds) if n % 4 == 2]
    assert len(stored) == 1 + kinds[3]
    assert not find_damage(database_url)
