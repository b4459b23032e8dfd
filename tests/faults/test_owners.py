"""Strangers ask for everything that somebody else has, and are answered as if it did not exist, to the byte.

Two servers on two databases: in one a victim has filled sessions, in the other the same ids never were. Each
request of the route table is sent to both by an owner of its own, and then all of them by one owner.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import psycopg
import pytest

from runtime.db.database import open_database
from runtime.models import utc_now
from runtime.store.tokens import Tokens
from tests.access_server import bearer
from tests.api.asking import call
from tests.faults.conftest import Report
from tests.faults.route_examples import MESSAGE, Example, Ids, examples
from tests.model_server import ModelServer, Reply, calls, model_server, says, silence
from tests.server_process import ServerProcess

Json = Any

BEGINNING = datetime(2026, 11, 21, 12, tzinfo=UTC)
SECRET = "hush-hush"
TIMEOUT = aiohttp.ClientTimeout(total=60)
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
CURSOR = re.compile(r'(?<="next_cursor":")[\w-]+')
# They tell of the process, and of all that it does, to whoever may look.
OF_THE_PROCESS = {"/metrics"}


class World(NamedTuple):
    """A server on a database of its own. `now` sets its clock; `tokens` are by owner."""

    http: aiohttp.ClientSession
    url: str
    database: str
    tokens: dict[str, str]
    clock: Path

    def at(self, now: datetime) -> None:
        self.clock.write_text(now.isoformat())

    def request(self, owner: str, method: str, path: str, **options: Any) -> Any:
        headers = {**bearer(self.tokens[owner]), **options.pop("headers", {})}
        return self.http.request(method, self.url + path, headers=headers, **options)

    async def ask(self, owner: str, method: str, path: str, body: Json = None, **headers: str) -> Json:
        """The decoded body of a reply that must be a good one."""
        async with self.request(owner, method, path, json=body, headers=headers) as reply:
            assert reply.status < 300, (method, path, await reply.text())
            return await reply.json() if reply.content_type == "application/json" else await reply.text()


@asynccontextmanager
async def world(url: str, model: ModelServer, clock: Path, owners: Sequence[str]) -> AsyncIterator[World]:
    database = await open_database(url)
    tokens = Tokens(database, utc_now)
    texts = {owner: (await tokens.create(owner, owner=owner))[1] for owner in owners}
    await database.close()
    clock.write_text(BEGINNING.isoformat())
    env = {"DB_URL": url, "LLM_URL": model.url, "ACCESS_LOG": "off"}
    command = (sys.executable, "-m", "tests.clocked_server", str(clock))
    with ServerProcess(env, command=command) as server:
        await asyncio.to_thread(server.wait_until_listening)
        async with aiohttp.ClientSession(timeout=TIMEOUT) as http:
            yield World(http, server.url, url, texts, clock)
        # What is expected is no accident: nothing failed inside.
        assert "Traceback" not in server.log
        assert server.stop() == 0


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


async def fill(here: World) -> dict[str, str]:
    """All that a victim can have; the ids of it."""
    start = "/sessions/victim-open"

    async def ask(method: str, path: str, body: Json = None, **headers: str) -> Json:
        return await here.ask("victim", method, path, body, **headers)

    made = {
        "title": SECRET,
        "description": SECRET,
        "metadata": {"a": SECRET},
        "messages": [secret(), secret()],
    }
    for name in ("victim-open", "victim-deleted", "victim-keyed"):
        await ask("POST", "/sessions", {"session_id": name, **made}, **{"Idempotency-Key": f"made-{name}"})
    for call_id in ("victim-call", "victim-decided"):
        approval = {"call_id": call_id, "tool_name": SECRET, "arguments": {"a": SECRET}, "reason": SECRET}
        await ask("POST", f"{start}/approvals", approval)
    await ask(
        "POST", f"{start}/approvals/victim-decided/decision", {"decision": "reject", "feedback": SECRET}
    )
    await ask("POST", f"{start}/agent", {"agent": "ask", "reason": SECRET, "metadata": {"a": SECRET}})
    await ask("PATCH", f"{start}/context", {"metadata": {"a": SECRET}})
    turn = {"session_id": "victim-open", "message": {"type": "user_message", "content": SECRET}}
    events = await ask("POST", "/agent/message/stream", turn)
    await ask("DELETE", "/sessions/victim-deleted")
    listed = await ask("GET", "/sessions?limit=1")
    return {
        "session_id": "victim-open",
        "call_id": "victim-call",
        "turn_id": UUID.search(events)[0],  # type: ignore[index]
        "event_id": re.findall("^id: (.*)$", events, re.MULTILINE)[-1],
        "version": str((await ask("GET", start))["version"]),
        "cursor": listed["next_cursor"],
        "agent": "orchestrator",
        "agent_type": "orchestrator",
    }


def secret() -> Json:
    return {"role": "user", "content": SECRET, "metadata": {"a": SECRET}}


async def begin_to_wait(here: World, stack: AsyncExitStack) -> str:
    """A turn of the victim that runs on; its id."""
    body = {"session_id": "victim-open", "message": {"type": "user_message", "content": f"WAIT {SECRET}"}}
    stream = await stack.enter_async_context(
        here.request("victim", "POST", "/agent/message/stream", json=body)
    )
    first = await stream.content.readuntil(b"\n\n")
    return UUID.search(first.decode())[0]  # type: ignore[index]


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


class Answer(NamedTuple):
    """All that a client sees of a reply, but for its date, with UUIDs made equal."""

    status: int
    headers: list[tuple[str, str]]
    body: str


async def send(world: World, owner: str, example: Example, number: int = 0) -> Answer:
    headers = {**example.headers, "X-Request-ID": f"request-{number}"}
    options = {"params": example.query, "headers": headers, "allow_redirects": False}
    if example.body is not None:
        options["json"] = example.body
    async with world.request(owner, example.method, example.path, **options) as reply:
        shown = sorted((name, UUID.sub("U", text)) for name, text in reply.headers.items() if name != "Date")
        return Answer(
            reply.status, shown, UUID.sub("U", CURSOR.sub(open_cursor, await body_of(reply, example)))
        )


def open_cursor(found: re.Match[str]) -> str:
    """What a cursor says: a UUID in it would not be seen."""
    return base64.urlsafe_b64decode(found[0] + "==").decode()


async def body_of(reply: aiohttp.ClientResponse, example: Example) -> str:
    if reply.content_type != "text/event-stream":
        return await reply.text()
    if example.route.path == "/sessions/{session_id}/events":
        # It is one of the stranger's own, and has no end.
        return ""
    return whole_stream(await reply.text())


def whole_stream(text: str) -> str:
    """The events without their ids, and pieces of text joined: how they are cut is chance."""
    lines = (line for line in text.splitlines() if line.startswith(("event:", "data:")))
    return re.sub(
        r'", "is_final": false}\nevent: message\ndata: {"type": "assistant_message", "token": "',
        "",
        "\n".join(lines),
    )


def rows_of_the_victim(url: str) -> dict[str, list[Any]]:
    """Every row that is the victim's, of every table; signs of life of a running turn are left out."""
    rows = {}
    with closing(connect(url)) as connection:
        for table, columns in tables(connection, url).items():
            shown = ", ".join(f'"{column}"' for column in columns if column != "beat")
            if table == "tokens" or not {"owner", "session_db_id"} & set(columns):
                continue
            mine = "SELECT id FROM sessions WHERE owner = 'victim'"
            where = "owner = 'victim'" if "owner" in columns else f"session_db_id IN ({mine})"
            rows[table] = sorted(map(repr, connection.execute(f"SELECT {shown} FROM {table} WHERE {where}")))
    assert rows["messages"]
    return rows


def connect(url: str) -> Any:
    return (
        sqlite3.connect(url.removeprefix("sqlite:///")) if url.startswith("sqlite") else psycopg.connect(url)
    )


def tables(connection: Any, url: str) -> dict[str, list[str]]:
    if url.startswith("sqlite"):
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: [row[1] for row in connection.execute(f"PRAGMA table_info({name})")] for name in names}
    found: dict[str, list[str]] = {}
    columns = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
    for table, column in connection.execute(columns):
        found.setdefault(table, []).append(column)
    return found


async def test_not_one_leak(two_urls: tuple[str, str], model: ModelServer, tmp_path: Path, report: Report):
    count = len(
        all_requests(
            dict.fromkeys(("session_id", "call_id", "turn_id", "event_id", "version", "cursor"), "x"), "x"
        )
    )
    strangers = [f"stranger {number}" for number in range(count)]
    owners = ["victim", "stranger", *strangers]
    async with AsyncExitStack() as stack:
        here, there = [
            await stack.enter_async_context(world(url, model, tmp_path / f"clock {n}", owners))
            for n, url in enumerate(two_urls)
        ]
        ids = await fill(here)
        replayable = await use_keys(here, keyed({**ids, "session_id": "victim-keyed"}))
        running = await begin_to_wait(here, stack)
        requests = all_requests(ids, running)
        assert len(requests) == count
        before = rows_of_the_victim(here.database)
        turns = (await here.ask("victim", "GET", "/sessions/victim-open/turns"))["turns"]
        assert [turn["status"] for turn in turns] == ["running", "completed"]
        # What was the victim's is an hour old: a time of it could not be taken for one of the stranger's.
        for each in (here, there):
            each.at(BEGINNING + timedelta(hours=1))
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
    return [example for example in found if example.route.path not in OF_THE_PROCESS]


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


async def test_what_the_process_tells_is_not_whose_it_is(sqlite_url: str, model: ModelServer, tmp_path: Path):
    async with world(sqlite_url, model, tmp_path / "clock", ["victim", "stranger"]) as here:
        await fill(here)
        for path in OF_THE_PROCESS:
            told = await here.ask("stranger", "GET", path)
            assert "victim" not in told
            assert SECRET not in told


async def test_a_stream_shows_the_own_session_alone(
    two_urls: tuple[str, str], model: ModelServer, tmp_path: Path
):
    async with world(two_urls[0], model, tmp_path / "clock", ["victim", "stranger"]) as here:
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


async def test_nobody_but_an_admin_cleans_up(sqlite_url: str, model: ModelServer, tmp_path: Path):
    async with world(sqlite_url, model, tmp_path / "clock", ["victim", "stranger"]) as here:
        await fill(here)
        before = rows_of_the_victim(here.database)
        body = {"max_age_hours": 0, "hard_delete_after_days": 0}
        async with here.request("stranger", "POST", "/maintenance/cleanup", json=body) as reply:
            assert reply.status == 403
        assert rows_of_the_victim(here.database) == before
