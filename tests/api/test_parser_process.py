"""Large bodies are parsed in a process of their own: as small ones are, and whatever becomes of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from runtime.api import parser_process
from runtime.api.parser_process import MAX_INLINE, PORTION_MESSAGES, BodyParser
from runtime.api.parsing import parse_body
from runtime.api.sessions import NewSession
from tests.api.test_bad_input import BAD_BODIES, BAD_MESSAGES, JSON, MESSAGES, TAKES_MESSAGES
from tests.api.test_turn_requests import MALFORMED
from tests.support.api_server import USER, Client, check, check_problem, make, serving, texts

pytestmark = pytest.mark.slow

PADDING = b" " * (MAX_INLINE + 1)
LARGE = b'{"role": "user", "content": "large"}' + PADDING
# Seconds of work for the process, so that it is found at it.
SLOW = b'{"role": "user", "content": [%s]}' % b",".join([b"[" * 40 + b"]" * 40] * 50_000)


def children() -> set[int]:
    """The processes that this one has started."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        found |= set(map(int, (task / "children").read_text().split()))
    return found


async def answer(client: Client, method: str, path: str, body: bytes) -> Any:
    """What a reply says, but for what is its own; of bodies that are no JSON only that they are none."""
    async with client.request(method, path, data=body, headers=JSON) as response:
        told = await response.json(content_type=None)
        told.pop("request_id", None)
        if told.get("code") == "invalid_json":
            return response.status, "invalid_json"
        return response.status, {**told, "messages": len(told.get("messages", ()))}


async def assert_alike(client: Client, method: str, path: str, body: bytes) -> None:
    assert await answer(client, method, path, body) == await answer(client, method, path, body + PADDING)


async def test_a_large_body_is_refused_as_a_small_one_is(database_url: str) -> None:
    async with serving(database_url, max_body_bytes=8_000_000) as client:
        await make(client)
        for body, *_ in BAD_BODIES:
            if 0 < len(body) <= MAX_INLINE:
                await assert_alike(client, "POST", MESSAGES, body)
        for parameters in TAKES_MESSAGES:
            method, path, frame, _ = parameters.values
            for message, _ in BAD_MESSAGES:
                await assert_alike(client, str(method), str(path), (str(frame) % message).encode())
        assert await texts(client) == []


async def test_malformed_turns_are_refused_alike(client: Client) -> None:
    for message, _ in MALFORMED:
        body = json.dumps({"session_id": "s", "message": message}).encode()
        await assert_alike(client, "POST", "/agent/message/stream", body)


@pytest.mark.parametrize("count", [1, PORTION_MESSAGES, PORTION_MESSAGES + 1, 3 * PORTION_MESSAGES])
async def test_messages_come_in_portions(count: int) -> None:
    body = b'{"metadata": {"a": 1.50}, "messages": [%b]}' % b",".join(
        b'{"role": "user", "content": "%d", "other": 2.0}' % number for number in range(count)
    )
    parser = BodyParser()
    small: Any = parse_body(body, NewSession)
    large: Any = await parser.parse(body + PADDING, NewSession)
    await parser.close()
    assert len(large.messages.items) == count
    assert list(large.messages.items) == list(small.messages.items)
    assert large.metadata.text == small.metadata.text == '{"a":1.50}'


async def test_a_process_that_was_killed_is_replaced(database_url: str) -> None:
    before = children()
    async with serving(database_url, max_body_bytes=8_000_000) as client:
        await make(client)
        assert children() == before
        for number in range(1, 4):
            await check(await client.post(MESSAGES, data=LARGE, headers=JSON), 201)
            (worker,) = children() - before
            if number < 3:
                os.kill(worker, signal.SIGKILL)
        # At its work, too.
        asking = asyncio.create_task(client.post(MESSAGES, data=BytesIO(SLOW), headers=JSON))
        await until_busy(worker, asking)
        os.kill(worker, signal.SIGKILL)
        await check(await asking, 201)
        assert (await texts(client))[:3] == ["large"] * 3
    assert children() == before


async def until_busy(pid: int, asking: asyncio.Task[Any]) -> None:
    """Return while a process works for a task."""
    # Its state stands behind its name.
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "R":
        assert not asking.done(), "it is done already"
        await asyncio.sleep(0)


async def test_no_process_is_503(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    await make(client)
    monkeypatch.setattr(parser_process, "_START", "raise SystemExit")
    response = await client.post(MESSAGES, data=LARGE, headers=JSON)
    await check_problem(response, 503, "not_stored")
    assert int(response.headers["Retry-After"]) > 0
    await check(await client.post(MESSAGES, json=USER), 201)
    monkeypatch.undo()
    await check(await client.post(MESSAGES, data=LARGE, headers=JSON), 201)
    assert await texts(client) == [USER["content"], "large"]


async def test_a_caller_that_goes_away_leaves_a_parser_that_works() -> None:
    before = children()
    parser = BodyParser()
    await parser.parse(b"{}" + PADDING, NewSession)
    (worker,) = children() - before
    body = b'{"metadata": {"a": %b}}' % SLOW
    asking = asyncio.create_task(parser.parse(body, NewSession))
    await until_busy(worker, asking)
    asking.cancel()
    await asyncio.wait([asking])
    found = await parser.parse(b'{"title": "x"}' + PADDING, NewSession)
    assert found.title == "x"
    await parser.close()
    assert children() == before


async def test_a_process_that_has_become_large_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    parser, before = BodyParser(), children()
    start = "from runtime.api import parser_process; parser_process.MAX_MEMORY = 0; parser_process.main()"
    monkeypatch.setattr(parser_process, "_START", start)
    workers = set()
    for number in range(3):
        body = b'{"title": "%d"}' % number
        assert (await parser.parse(body + PADDING, NewSession)).title == str(number)
        workers |= children() - before
    await parser.close()
    assert len(workers) == 3
