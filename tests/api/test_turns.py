"""Turns as http-api.md has them: how one is asked for, what it tells, what is stored. On both databases."""

from __future__ import annotations

import asyncio
from datetime import datetime

from tests.support.api_server import Client, check, check_problem, make
from tests.support.model_server import says
from tests.support.turn_requests import (
    ask,
    begin,
    fails,
    gist,
    messages,
    read_all,
    read_event,
    spoken,
    talking,
    turn_id,
    turns,
    user,
)

TURN_FIELDS = {
    *("turn_id", "status", "agent", "started_at", "ended_at", "error", "input_tokens", "output_tokens"),
}
FINAL = {"type": "assistant_message", "content": "Hello, you", "is_final": True}
DONE = ("done", {"status": "completed"})


async def test_the_events_of_a_turn(database_url: str) -> None:
    async with talking(database_url, [says("Hel", "lo, ", "you")]) as (client, _):
        async with begin(client, user("hi")) as stream:
            assert stream.headers["Cache-Control"] == "no-store"
            assert stream.headers["X-Accel-Buffering"] == "no"
            assert stream.headers["X-Request-ID"]
            assert stream.headers["ETag"] == '"1"'
            events = await read_all(stream)
        turn_id(events)
        for event in events[1:-2]:
            token = event.data["token"]
            assert (event.name, event.data) == (
                "message",
                {"type": "assistant_message", "token": token, "is_final": False},
            )
        assert gist(events)[1:] == ["Hello, you", ("message", FINAL), DONE]
        assert len({event.id for event in events}) == len(events)


async def test_what_was_said_is_stored(database_url: str) -> None:
    async with talking(database_url, [says("Hello", usage=(12, 5)), says("Bye", usage=(20, 3))]) as (
        client,
        _,
    ):
        first = turn_id(await ask(client, user("hi")))
        second = turn_id(await ask(client, user([{"type": "text", "text": "bye"}])))
        assert await messages(client) == [
            {"role": "user", "content": "hi"},
            {
                "role": "assistant",
                "content": "Hello",
                "token_count": 5,
                "metadata": {"turn_id": first, "agent": "orchestrator"},
            },
            {"role": "user", "content": [{"type": "text", "text": "bye"}]},
            {
                "role": "assistant",
                "content": "Bye",
                "token_count": 3,
                "metadata": {"turn_id": second, "agent": "orchestrator"},
            },
        ]
        stats = await check(await client.get("/sessions/s/stats"))
        assert (stats["message_count"], stats["total_tokens"]) == (4, 8)


async def test_the_list_of_turns(database_url: str) -> None:
    async with talking(database_url, [says("a", usage=(1, 2)), says("b", usage=(3, 4))]) as (client, _):
        ids = [turn_id(await ask(client, user("hi"))) for _ in range(2)]
        response = await client.get("/sessions/s/turns")
        body = await check(response)
        assert (set(body), body["session_id"]) == ({"session_id", "turns"}, "s")
        assert response.headers["ETag"] == f'"{(await check(await client.get("/sessions/s")))["version"]}"'
        assert all(set(turn) == TURN_FIELDS for turn in body["turns"])
        latest, first = body["turns"]
        assert [first["turn_id"], latest["turn_id"]] == ids
        assert [(turn["input_tokens"], turn["output_tokens"]) for turn in body["turns"]] == [(3, 4), (1, 2)]
        assert {(turn["status"], turn["agent"], turn["error"]) for turn in body["turns"]} == {
            ("completed", "orchestrator", None)
        }
        assert datetime.fromisoformat(first["started_at"]) <= datetime.fromisoformat(first["ended_at"])
        assert [turn["turn_id"] for turn in await turns(client, "?limit=1")] == ids[1:]
        for wrong in ("0", "1001", "x"):
            response = await client.get(f"/sessions/s/turns?limit={wrong}")
            await check_problem(response, 422, "invalid_input", "?limit")


async def test_a_turn_that_runs_is_listed(database_url: str) -> None:
    gate = asyncio.Semaphore(0)
    async with (
        talking(database_url, [says("a", gate=gate)]) as (client, _),
        begin(client, user("hi")) as stream,
    ):
        await read_event(stream)
        [turn] = await turns(client)
        assert (turn["status"], turn["ended_at"]) == ("running", None)
        gate.release()
        gate.release()
        await read_all(stream)


async def test_any_text_comes_through_unchanged(database_url: str) -> None:
    pieces = ["\x00\n\r", '"\\u0041"', "grün 😀", "\u2028\x7f", "data: x\n\nid: 9\n\n", " "]
    async with talking(database_url, [says(*pieces)]) as (client, _):
        events = await ask(client, user("\x00"))
        assert spoken(events) == "".join(pieces)
        assert events[-2].data["content"] == "".join(pieces)
        assert (await messages(client))[1]["content"] == "".join(pieces)


async def test_an_empty_answer_is_an_answer(database_url: str) -> None:
    async with talking(database_url, [says(), says("b")]) as (client, model):
        events = await ask(client, user("a"))
        assert gist(events)[1:] == [("message", {**FINAL, "content": ""}), DONE]
        await ask(client, user("b"))
        assert [message["content"] for message in model.requests[1].body["messages"][1:]] == ["a", "b"]


async def test_the_session_is_made_where_it_is_missing_and_kept_where_it_is_not(database_url: str) -> None:
    async with talking(database_url, [says("a"), says("b")]) as (client, _):
        await ask(client, user("What is this?"))
        session = await check(await client.get("/sessions/s"))
        assert (session["title"], session["current_agent"]) == ("What is this?", "orchestrator")
        await make(client, "named", title="Mine")
        await ask(client, user("hi"), "named")
        session = await check(await client.get("/sessions/named"))
        assert (session["title"], session["message_count"]) == ("Mine", 2)


async def test_a_deleted_session_takes_no_turn(database_url: str) -> None:
    async with talking(database_url, [says("a")]) as (client, model):
        await ask(client, user("hi"))
        await client.delete("/sessions/s")
        async with begin(client, user("hi")) as response:
            await check_problem(response, 404, "session_not_found")
        assert len(model.requests) == 1


async def test_one_turn_a_session_at_a_time(database_url: str) -> None:
    gate = asyncio.Semaphore(0)
    async with talking(database_url, [says("a", gate=gate), says("b"), says("c")]) as (client, model):
        async with begin(client, user("first")) as stream:
            await read_event(stream)
            async with begin(client, user("second")) as refused:
                await check_problem(refused, 409, "turn_running")
            assert spoken(await ask(client, user("elsewhere"), "other")) == "b"
            gate.release()
            gate.release()
            assert gist(await read_all(stream))[-1] == DONE
        assert spoken(await ask(client, user("third"))) == "c"
        assert len(model.requests) == 3
        assert [message["content"] for message in await messages(client)] == ["first", "a", "third", "c"]


async def test_a_session_held_by_an_agent_that_is_not_configured(database_url: str) -> None:
    async with talking(database_url, [says("Here.")]) as (client, model):
        await make(client, agent="mine")
        await fails(client, user("hi"), "unknown_agent")
        assert model.requests == []
        switch = {"type": "switch_agent", "agent_type": "ask", "content": "And you?"}
        assert spoken(await ask(client, switch)) == "Here."
        assert [message["content"] for message in await messages(client)] == ["hi", "And you?", "Here."]


async def test_the_built_in_echo_answers_where_no_model_is_set(client: Client) -> None:
    events = await ask(client, user("hi there"))
    assert "built-in echo model" in spoken(events)
    assert spoken(events).endswith("You said: hi there")
    assert gist(events)[-1] == DONE
