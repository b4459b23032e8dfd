"""Strangers ask for everything that somebody else has, and are answered as if it did not exist, to the byte.

Two servers on two databases: in one a victim has filled sessions, in the other the same ids never were. Each
request of the route table is sent to both by an owner of its own, and then all of them by one owner.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.faults.clock import Clock
from tests.faults.compared_servers import BEGINNING, World, send, world
from tests.faults.conftest import Report
from tests.faults.marked_owner import SECRET, begin_to_wait, fill, rows_of_the_victim, secret
from tests.faults.route_examples import MESSAGE, Example, Ids, examples
from tests.support.model_server import ModelServer, Reply, calls, model_server, says, silence
from tests.support.turn_requests import call

Json = Any


@pytest.fixture(params=["sqlite", "postgres"])
def two_urls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Two fresh databases of one kind, both migrated."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/here.db", f"sqlite:///{tmp_path}/there.db"
        return
    server = request.getfixturevalue("postgres_server")
    template = request.getfixturevalue("postgres_template")
    names = [server.create(template), server.create(template)]
    yield server.url(names[0]), server.url(names[1])
    for name in names:
        server.drop(name)


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    """Says Hello; calls a tool where it is told so; and says nothing where it is told to wait."""
    hold = asyncio.Event()

    def script(body: Json) -> Reply:
        last = json.dumps(body["messages"][-1])
        if "WAIT" in last:
            return silence(hold)
        return (
            calls(call("asked", "write_file", path="a", content=SECRET)) if "CALL" in last else says("Hello.")
        )

    async with model_server(script) as model:
        yield model
        hold.set()


def keyed(ids: Ids) -> list[Example]:
    """Each write once more, under a key that is its own."""
    writes = [example for example in examples(ids) if example.route.writes and not example.headers]
    return [
        example._replace(headers={"Idempotency-Key": f"key-{number}"})
        for number, example in enumerate(writes)
    ]


async def use_keys(here: World, asked: Sequence[Example]) -> int:
    """Let the victim send the same writes under the same keys; how many were done, and their keys stored."""
    done = 0
    for example in asked:
        if "victim-keyed" in (example.path, (example.body or {})) or "{session_id}" in example.route.path:
            await here.ask("victim", "POST", "/sessions/victim-keyed", [secret()])
        answer = await send(here, "victim", example)
        done += answer.status < 300
        async with here.request("victim", "POST", "/sessions/victim-keyed/restore"):
            pass
    return done


async def index(world: World) -> None:
    """Wait until what was said is indexed, which is a moment later."""
    while not (await world.ask("victim", "GET", "/search?q=word"))["complete"]:
        pass


async def test_not_one_leak(
    two_urls: tuple[str, str], model: ModelServer, tmp_path: Path, report: Report
) -> None:
    count = len(
        all_requests(
            dict.fromkeys(
                ("session_id", "call_id", "turn_id", "event_id", "version", "cursor", "owner"), "x"
            ),
            "x",
        )
    )
    strangers = [f"stranger {number}" for number in range(count)]
    owners = ["victim", "stranger", *strangers]
    async with AsyncExitStack() as stack:
        here, there = [
            await stack.enter_async_context(world(url, model, Clock(tmp_path / f"clock {n}"), owners))
            for n, url in enumerate(two_urls)
        ]
        ids = await fill(here)
        replayable = await use_keys(here, keyed({**ids, "session_id": "victim-keyed"}))
        running = await begin_to_wait(here, stack)
        requests = all_requests(ids, running)
        assert len(requests) == count
        await index(here)
        before = rows_of_the_victim(here.database)
        turns = (await here.ask("victim", "GET", "/sessions/victim-open/turns"))["turns"]
        assert [turn["status"] for turn in turns] == ["running", "completed"]
        # What was the victim's is an hour old: a time of it could not be taken for one of the stranger's.
        for each in (here, there):
            each.clock.stand(BEGINNING + timedelta(hours=1))
        await compare(here, there, requests, lambda number: strangers[number], at_once=12)
        await compare(here, there, requests, lambda number: "stranger", at_once=1)
        assert rows_of_the_victim(here.database) == before
        report(requests=2 * count, routes=len({r.route.path for r in requests}), replayable_keys=replayable)


def all_requests(ids: Ids, running: str) -> list[Example]:
    found = examples({**ids, "session_id": "victim-open"})
    found += examples({**ids, "session_id": "victim-deleted"})
    others = examples({**ids, "turn_id": running, "call_id": "victim-decided"})
    found += [example for example in others if {"turn_id", "call_id"} & set(example.route.keys)]
    found += keyed({**ids, "session_id": "victim-keyed"})
    return found


async def compare(
    here: World, there: World, requests: Sequence[Example], owner: Callable[[int], str], *, at_once: int
) -> None:
    places = asyncio.Semaphore(at_once)

    async def compare_one(number: int, example: Example) -> str:
        async with places:
            seen = await asyncio.gather(
                *(send(world, owner(number), example, number) for world in (here, there))
            )
        assert SECRET not in repr(seen[0]), f"{example}\n{seen[0]}"
        return "" if seen[0] == seen[1] else f"{example}\n  {seen[0]}\n  {seen[1]}"

    differences = await asyncio.gather(*(compare_one(*each) for each in enumerate(requests)))
    assert not any(differences), "\n".join(filter(None, differences))


async def test_a_stream_shows_the_own_session_alone(
    two_urls: tuple[str, str], model: ModelServer, tmp_path: Path
) -> None:
    async with world(two_urls[0], model, Clock(tmp_path / "clock"), ["victim", "stranger"]) as here:
        await here.ask("stranger", "POST", "/sessions", {"session_id": "s"})
        async with here.request("stranger", "GET", "/sessions/s/events") as stream:
            # The victim comes later, with the same id, and does all that a follower would hear of.
            await here.ask("victim", "POST", "/sessions", {"session_id": "s", "messages": [secret()]})
            await here.ask("victim", "POST", "/sessions/s/agent", {"agent": "ask"})
            turn = {"session_id": "s", "message": {"type": "user_message", "content": SECRET}}
            await here.ask("victim", "POST", "/agent/message/stream", turn)
            await here.ask("victim", "DELETE", "/sessions/s")
            await here.ask("stranger", "POST", "/sessions/s/messages", MESSAGE)
            first = (await stream.content.readuntil(b"\n\n")).decode()
        assert first.startswith("id: 1\nevent: message\n")
        assert '"hello"' in first


async def test_nobody_but_an_admin_cleans_up(sqlite_url: str, model: ModelServer, tmp_path: Path) -> None:
    async with world(sqlite_url, model, Clock(tmp_path / "clock"), ["victim", "stranger"]) as here:
        await fill(here)
        await index(here)
        before = rows_of_the_victim(here.database)
        body = {"max_age_hours": 0, "hard_delete_after_days": 0}
        async with here.request("stranger", "POST", "/maintenance/cleanup", json=body) as reply:
            assert reply.status == 403
        assert rows_of_the_victim(here.database) == before
