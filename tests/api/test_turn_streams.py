"""A turn outlives those who listen to it: they leave, come back, stall, stop it. On both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from runtime.api.routes import StreamTimeouts
from tests.support.api_server import check, check_problem, serving, texts
from tests.support.event_readers import LONG, hearing, next_event, stalled_reader
from tests.support.model_server import calls, says
from tests.support.turn_requests import (
    STREAM,
    Event,
    ask,
    begin,
    call,
    follow,
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

BODY = '{"session_id":"s","message":{"type":"user_message","content":"hi"}}'
HEAD = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}"
QUESTION = f"POST {STREAM} HTTP/1.1\r\n{HEAD}\r\n\r\n{BODY}"
TEXT = 'grün 😀 "quoted"\n'


def release(gate: asyncio.Semaphore, number: int) -> None:
    for _ in range(number):
        gate.release()


def rest_after(events: Sequence[Event], event_id: str) -> list[Event]:
    """The events behind the one with this id."""
    ids = [event.id for event in events]
    return list(events[ids.index(event_id) + 1 :])


async def test_a_client_that_goes_away_comes_back_for_the_rest(database_url: str) -> None:
    gate = asyncio.Semaphore(0)
    async with talking(database_url, [says("one ", "two ", "three", gate=gate)]) as (client, _):
        async with begin(client, user("count")) as stream:
            release(gate, 1)
            heard = await read_until(stream, "one ")
            stream.close()
        turn = turn_id(heard)
        release(gate, 1)
        async with follow(client, turn, heard[-1].id) as stream:
            live = await read_until(stream, "two ")
            release(gate, 2)
            rest = live + await read_all(stream)
        assert spoken(heard + rest) == "one two three"
        assert [name for name, _ in gist(rest)[1:]] == ["message", "done"]
        ids = [event.id for event in heard + rest]
        assert len(set(ids)) == len(ids)
        assert [message["content"] for message in await messages(client)] == ["count", "one two three"]


async def test_a_turn_runs_on_while_nobody_listens(database_url: str) -> None:
    gate = asyncio.Semaphore(0)
    async with talking(database_url, [says("a", "b", gate=gate)]) as (client, _):
        async with begin(client, user("hi")) as stream:
            turn = turn_id([await read_event(stream)])
            stream.close()
        async with client.get("/sessions/s/events?after=1") as session:
            release(gate, 3)
            while (await next_event(session)).get("event") != "message":
                pass
        async with follow(client, turn) as stream:
            assert [part if isinstance(part, str) else part[0] for part in gist(await read_all(stream))] == [
                *("turn", "ab", "message", "done")
            ]


async def test_a_turn_is_heard_from_each_of_its_events_on(database_url: str) -> None:
    looks = [call("a", "read_file", path="a"), call("b", "list_files")]
    handover = call("h", "switch_agent", agent="ask", reason="why not")
    script = [calls(handover, before=TEXT), calls(*looks, before=TEXT)]
    async with talking(database_url, script) as (client, _):
        live = await ask(client, user("hi"))
        turn = turn_id(live)
        async with follow(client, turn) as stream:
            recorded = await read_all(stream)
        assert gist(recorded) == gist(live)
        for events in (live, recorded):
            for event in events:
                async with follow(client, turn, event.id) as stream:
                    assert gist(await read_all(stream)) == gist(rest_after(events, event.id))


async def test_a_text_is_heard_from_each_of_its_characters_on(database_url: str) -> None:
    async with talking(database_url, [says(TEXT)]) as (client, _):
        turn = turn_id(await ask(client, user("hi")))
        for length in range(1, len(TEXT)):
            async with follow(client, turn, f"2-{length}") as stream:
                assert spoken(await read_all(stream)) == TEXT[length:]


@pytest.mark.slow
async def test_a_long_text_is_heard_from_each_of_its_pieces_on(database_url: str) -> None:
    # Longer than what is stored in one row.
    pieces = [f"{n:04d}" * 150 for n in range(20)]
    gate = asyncio.Semaphore(0)
    async with talking(database_url, [says(*pieces, gate=gate)]) as (client, _):
        async with begin(client, user("hi")) as stream:
            live = [await read_event(stream)]
            for piece in pieces:
                release(gate, 1)
                live += await read_until(stream, piece)
            release(gate, 1)
            live += await read_all(stream)
        assert len({event.id.partition("-")[0] for event in live}) > 5
        for event in live:
            async with follow(client, turn_id(live), event.id) as again:
                assert joined(await read_all(again)) == joined(rest_after(live, event.id))


def joined(events: Sequence[Event]) -> tuple[str, list[str]]:
    """The text, and the names of the other events."""
    return spoken(events), [event.name for event in events if "token" not in event.data]


async def test_a_turn_is_followed_live_at_another_instance(postgres_url: str) -> None:
    gate = asyncio.Semaphore(0)
    async with (
        serving(postgres_url) as other,
        talking(postgres_url, [says("one ", "two ", "three", gate=gate)]) as (client, _),
        begin(client, user("count")) as stream,
    ):
        release(gate, 1)
        heard = await read_until(stream, "one ")
        stream.close()
        async with follow(other, turn_id(heard), heard[-1].id) as rest:
            release(gate, 1)
            live = await read_until(rest, "two ")
            release(gate, 2)
            live += await read_all(rest)
        assert joined(live) == ("two three", ["message", "done"])


async def test_last_event_ids_that_no_event_has(database_url: str) -> None:
    async with talking(database_url, [says("Hello")]) as (client, _):
        turn = turn_id(await ask(client, user("hi")))
        for event_id in ("x", "-1", "1.5", "5", "9" * 19, "1-", "4-1", "2-3-4", " 1x", "٣", "2-١", "１"):
            async with follow(client, turn, event_id) as response:
                await check_problem(response, 422, "invalid_input", "Last-Event-ID")


async def test_head(database_url: str) -> None:
    async with talking(database_url, [says("a")]) as (client, _):
        turn = turn_id(await ask(client, user("hi")))
        response = await client.head(f"/sessions/s/turns/{turn}/events")
        assert (response.status, response.content_type) == (200, "text/event-stream")
        await check_problem(await client.get(STREAM), 405, "method_not_allowed")


async def test_a_comment_while_the_model_is_silent(database_url: str) -> None:
    gate = asyncio.Semaphore(0)
    script, pace = [says("a", gate=gate)], StreamTimeouts(heartbeat=0.01)
    async with (
        talking(database_url, script, pace=pace) as (client, _),
        begin(client, user("hi")) as stream,
    ):
        await read_event(stream)
        assert await next_event(stream) == {"": ""}
        assert await next_event(stream) == {"": ""}
        release(gate, 2)
        assert spoken(await read_all(stream)) == "a"


@pytest.mark.slow
async def test_a_reader_that_stalls_is_cut_off_and_the_turn_goes_on(database_url: str) -> None:
    # As an event each of these takes six bytes: more than the buffers of the sockets between can hold.
    pieces = ["\x01" * 90_000] * 10
    gate = asyncio.Semaphore(0)
    async with talking(database_url, [says(*pieces, gate=gate)], pace=StreamTimeouts(patience=0.5)) as (
        client,
        _,
    ):
        with hearing("agent_runtime.http", "stalled") as cut_off:
            async with (
                stalled_reader(client, QUESTION),
                asyncio.timeout(LONG),
            ):
                release(gate, 10)
                await cut_off.wait()
                release(gate, 1)
        [turn] = await turns(client)
        async with follow(client, turn["turn_id"]) as stream:
            events = await read_all(stream)
        assert spoken(events) == "".join(pieces)
        assert gist(events)[-1] == ("done", {"status": "completed"})


async def test_the_end_of_the_session_ends_the_stream_and_the_question(database_url: str) -> None:
    gate = asyncio.Semaphore(0)
    async with (
        talking(database_url, [says("a", "b", gate=gate)]) as (client, model),
        begin(client, user("hi")) as stream,
    ):
        release(gate, 1)
        await read_until(stream, "a")
        await check(await client.delete("/sessions/s"), 204)
        async with asyncio.timeout(LONG):
            last = (await read_all(stream))[-1]
            await model.wait_until_left()
        assert (last.name, last.data["code"]) == ("error", "turn_interrupted")
        await check(await client.post("/sessions/s/restore"))
        assert await texts(client) == ["hi", "a"]
