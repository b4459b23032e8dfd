"""Two approvers decide the same tool call at the same moment: one wins, and what it decided is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from random import Random
from typing import NamedTuple

import pytest

from tests.process.http_client import HttpClient, Json, Refused, http_client
from tests.support.server_process import start_server

# Two instances are where it is hard.
ROUNDS = {1: 250, 2: 1000}
AT_A_TIME = 16
# Seconds: far more than any of this takes.
PATIENCE = 120

ARGUMENTS = {"path": "a.md", "content": "as the model wrote it"}
# What a person may decide, and what is stored then.
VERDICTS: dict[str, Json] = {
    "approved": {"decision": "approve"},
    "edited": {"decision": "edit", "modified_arguments": {"path": "a.md", "content": "as I want it"}},
    "rejected": {"decision": "reject", "feedback": "not this file"},
}
REFUSALS = {
    "a route": {"approval_decided"},
    # The one who won by a rejection may have a turn running in which the model is told of it.
    "a turn": {"approval_decided", "turn_running"},
}


class Approver(NamedTuple):
    """What one of the two wants stored, and by which way."""

    client: HttpClient
    status: str
    way: str

    async def decide(self, session_id: str) -> bool:
        """Whether it was this one who decided."""
        try:
            await (self._by_route(session_id) if self.way == "a route" else self._by_turn(session_id))
        except Refused as refused:
            if refused.status != 409 or refused.code not in REFUSALS[self.way]:
                raise
            return False
        return True

    async def _by_route(self, session_id: str) -> None:
        path = f"/sessions/{session_id}/approvals/call/decision"
        assert (await self.client.post(path, VERDICTS[self.status]))["status"] == self.status

    async def _by_turn(self, session_id: str) -> None:
        message = {"type": "hitl_decision", "call_id": "call", **VERDICTS[self.status]}
        async with self.client.ask(session_id, message) as events:
            heard = [event async for event in events]
        assert (heard[-1].name, heard[-1].data["status"]) == ("done", "completed")
        calls = [event.data for event in heard if event.data.get("type") == "tool_call"]
        assert calls == CALLS_IN_FORCE[self.status]


def call_in_force(arguments: Json) -> Json:
    return {
        "type": "tool_call",
        "call_id": "call",
        "tool_name": "write_file",
        "arguments": arguments,
        "requires_approval": False,
        "is_final": True,
    }


# What the client is given to run.
CALLS_IN_FORCE = {
    "approved": [call_in_force(ARGUMENTS)],
    "edited": [call_in_force(VERDICTS["edited"]["modified_arguments"])],
    "rejected": [],
}


@pytest.fixture
def urls(database_url: str) -> Iterator[list[str]]:
    """Of two instances; the file of SQLite has only one."""
    with ExitStack() as servers:
        count = 1 if "sqlite" in database_url else 2
        env = {"DB_URL": database_url, "ACCESS_LOG": "off"}
        started = [servers.enter_context(start_server(env)) for _ in range(count)]
        yield [server.url for server in started]


async def test_of_two_approvers_one_wins_each_of_a_thousand_times(urls: list[str]) -> None:
    at_a_time = asyncio.Semaphore(AT_A_TIME)
    async with asyncio.timeout(PATIENCE), http_client(urls[0]) as one, http_client(urls[-1]) as other:

        async def play(number: int) -> str:
            async with at_a_time:
                return await race(one, other, number)  # type: ignore[return-value]

        winners = await asyncio.gather(*(play(number) for number in range(ROUNDS[len(urls)])))
    # It is a race, and not always the same one wins it, by either way.
    assert {(way, place) for way in REFUSALS for place in (0, 1)} == set(winners)


async def race(one: HttpClient, other: HttpClient, number: int) -> tuple[str, int]:
    """Let two decide the same call; by which way and in which place the one stood who won."""
    session_id, draw = f"session-{number}", Random(number)
    await make_call(one, session_id)
    clients = draw.sample([one, other], 2)
    statuses = draw.sample(sorted(VERDICTS), 2)
    # Over all rounds half of the decisions go either way.
    ways = [("a route", "a turn")[number // place % 2] for place in (1, 2)]
    approvers = [Approver(*approver) for approver in zip(clients, statuses, ways, strict=True)]
    won = await asyncio.gather(*(approver.decide(session_id) for approver in approvers))
    assert sorted(won) == [False, True]
    winner = approvers[won.index(True)]
    for client in (one, other):
        await check_stored(client, session_id, winner.status)
    return winner.way, won.index(True)


async def make_call(client: HttpClient, session_id: str) -> None:
    """A session in which a call waits for a person."""
    function = {"name": "write_file", "arguments": "{}"}
    asking = {"role": "assistant", "content": None, "tool_calls": [{"id": "call", "function": function}]}
    messages = [{"role": "user", "content": "Write it."}, asking]
    await client.post("/sessions", {"session_id": session_id, "agent": "coder", "messages": messages})
    waiting = {"call_id": "call", "tool_name": "write_file", "arguments": ARGUMENTS}
    await client.post(f"/sessions/{session_id}/approvals", waiting)


async def check_stored(client: HttpClient, session_id: str, status: str) -> None:
    """What either instance shows is what the winner decided."""
    [approval] = (await client.get(f"/sessions/{session_id}/approvals"))["approvals"]
    verdict = VERDICTS[status]
    assert approval["status"] == status
    assert approval["modified_arguments"] == verdict.get("modified_arguments")
    assert approval["feedback"] == verdict.get("feedback")
