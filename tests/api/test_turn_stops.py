"""Stopping a turn: what was said so far is kept, and the session is free at once. On both databases."""

from __future__ import annotations

import asyncio

from tests.support.api_server import Client, Json, check
from tests.support.model_server import calls, says, silence
from tests.support.turn_requests import (
    ask,
    begin,
    call,
    gist,
    messages,
    read_all,
    read_event,
    read_until,
    spoken,
    talking,
    turn_id,
    turns,
    user,
)

STOPPED = ("done", {"status": "stopped"})


async def stop(client: Client, turn: str, **headers: str) -> Json:
    path = f"/sessions/s/turns/{turn}/stop"
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return await check(await client.post(path, headers=sent), 202)


async def test_what_was_said_is_kept_and_the_session_takes_a_turn_at_once(database_url: str) -> None:
    gate = asyncio.Semaphore(0)
    script = [says("Hel", "lo", gate=gate), says("Again.")]
    async with talking(database_url, script) as (client, model):
        async with begin(client, user("hi")) as stream:
            gate.release()
            heard = await read_until(stream, "Hel")
            turn = turn_id(heard)
            assert await stop(client, turn) == {"session_id": "s", "turn_id": turn}
            rest = await read_all(stream)
        final = {"type": "assistant_message", "content": "Hel", "is_final": True}
        assert gist(rest) == [("message", final), STOPPED]
        await model.wait_until_left()
        assert spoken(await ask(client, user("go on"))) == "Again."
        metadata = {"turn_id": turn, "agent": "orchestrator", "stopped": True}
        stored = await messages(client)
        assert stored[1] == {"role": "assistant", "content": "Hel", "metadata": metadata}
        assert [message["content"] for message in stored] == ["hi", "Hel", "go on", "Again."]
        assert [turn["status"] for turn in await turns(client)] == ["completed", "stopped"]
        sent = [message["content"] for message in model.requests[1].body["messages"]]
        assert sent[1:] == ["hi", "Hel", "go on"]


async def test_before_anything_was_said(database_url: str) -> None:
    hold = asyncio.Event()
    async with talking(database_url, [silence(hold), says("b")]) as (client, model):
        async with begin(client, user("hi")) as stream:
            turn = turn_id([await read_event(stream)])
            await model.wait_for_requests(1)
            await stop(client, turn)
            assert gist(await read_all(stream)) == [STOPPED]
        assert [message["content"] for message in await messages(client)] == ["hi"]
        assert spoken(await ask(client, user("still there?"))) == "b"


async def test_calls_that_were_on_their_way_are_not_made(database_url: str) -> None:
    gate = asyncio.Semaphore(0)
    reply = calls(call("c", "read_file", path="a"), before=["Let me see."], gate=gate)
    async with talking(database_url, [reply]) as (client, _):
        async with begin(client, user("hi")) as stream:
            gate.release()
            gate.release()
            heard = await read_until(stream, "see.")
            await stop(client, turn_id(heard))
            rest = await read_all(stream)
        assert gist(rest)[-1] == STOPPED
        stored = await messages(client)
        assert stored[1]["content"] == "Let me see."
        assert "tool_calls" not in stored[1]


async def test_a_turn_that_has_ended_stays_as_it_is(database_url: str) -> None:
    async with talking(database_url, [says("a")]) as (client, _):
        turn = turn_id(await ask(client, user("hi")))
        before = await check(await client.get("/sessions/s"))
        assert await stop(client, turn) == {"session_id": "s", "turn_id": turn}
        assert await check(await client.get("/sessions/s")) == before
        assert (await turns(client))[0]["status"] == "completed"


async def test_an_earlier_turn_while_another_runs(database_url: str) -> None:
    gate = asyncio.Semaphore(0)
    async with talking(database_url, [says("a"), says("b", gate=gate)]) as (client, _):
        earlier = turn_id(await ask(client, user("hi")))
        async with begin(client, user("ho")) as stream:
            await read_event(stream)
            await stop(client, earlier)
            gate.release()
            gate.release()
            assert gist(await read_all(stream))[-1] == ("done", {"status": "completed"})


async def test_twice_and_under_a_key(database_url: str) -> None:
    hold = asyncio.Event()
    async with talking(database_url, [silence(hold, "so far")]) as (client, _):
        async with begin(client, user("hi")) as stream:
            turn = turn_id(await read_until(stream, "far"))
            first = await stop(client, turn, Idempotency_Key="k")
            assert await stop(client, turn, Idempotency_Key="k") == first
            assert await stop(client, turn) == first
            assert gist(await read_all(stream))[-1] == STOPPED
        assert [message["content"] for message in await messages(client)] == ["hi", "so far"]
