"""What one turn may take: steps, handovers, seconds, and how much of the history goes to the model. On both
databases."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.api_server import ANSWER, USER, Client, Json, append, check, make
from tests.support.model_server import Reply, calls, says, silence
from tests.support.turn_requests import ask, call, fails, gist, messages, result, spoken, talking, turns, user

AGENTS = """
[agents.orchestrator]
name = "One"
description = "The first."
instructions = "Be one."
hands_over_to = ["two"]
tools = ["look"]

[agents.two]
name = "Two"
description = "The second."
instructions = "Be two."
hands_over_to = ["orchestrator"]

[tools.look]
description = "Look."
[tools.look.parameters]
type = "object"

[limits]
"""


@pytest.fixture
def agents_file(tmp_path: Path) -> Path:
    return tmp_path / "agents.toml"


def limited(agents_file: Path, **limits: float) -> str:
    """The path of a file of agents with these limits."""
    agents_file.write_text(AGENTS + "\n".join(f"{name} = {value}" for name, value in limits.items()))
    return str(agents_file)


def hands_over(body: Json) -> Reply:
    """Each agent hands over to the other."""
    other = "two" if body["messages"][0]["content"] == "Be one." else "orchestrator"
    return calls(call("h", "switch_agent", agent=other, reason="not mine"), usage=(3, 2))


async def test_a_circle_of_handovers_is_cut(database_url: str, agents_file: Path) -> None:
    file = limited(agents_file, handovers=2)
    async with talking(database_url, hands_over, agents_file=file) as (client, model):
        events = await fails(client, user("hi"), "too_many_handovers")
        switched = [data["metadata"] for _, data in gist(events) if data.get("type") == "agent_switched"]
        assert [told["to_agent"] for told in switched] == ["two", "orchestrator"]
        assert len(model.requests) == 3
        context = await check(await client.get("/sessions/s/context"))
        assert (context["current_agent"], context["switch_count"]) == ("orchestrator", 2)
        await is_usable(client)


async def is_usable(client: Client) -> None:
    """Whatever the last turn came to, the session takes the next: here one that asks nobody."""
    events = await ask(client, {"type": "switch_agent", "agent_type": "two"})
    assert gist(events)[-1] == ("done", {"status": "completed"})


async def test_steps_are_counted(database_url: str, agents_file: Path) -> None:
    file = limited(agents_file, steps=2)
    wrong = calls(call("c", "touch"), usage=(3, 2))
    async with talking(database_url, lambda _: wrong, agents_file=file) as (client, model):
        await fails(client, user("hi"), "too_many_steps")
        assert len(model.requests) == 2
        [turn] = await turns(client)
        assert (turn["input_tokens"], turn["output_tokens"]) == (6, 4)
        assert [message["role"] for message in await messages(client)] == ["user", *("assistant", "tool") * 2]
        await is_usable(client)


async def test_a_turn_that_takes_too_long_keeps_what_was_said(database_url: str, agents_file: Path) -> None:
    hold = asyncio.Event()
    file = limited(agents_file, seconds=0.3)
    async with talking(database_url, [silence(hold, "So far")], agents_file=file) as (client, model):
        events = await fails(client, user("hi"), "turn_timeout")
        assert spoken(events) == "So far"
        assert "0.3 s" in events[-1].data["error"]
        await model.wait_until_left()
        said = (await messages(client))[1]
        assert (said["content"], said["metadata"]["failed"]) == ("So far", True)
        await is_usable(client)


async def sent_of(database_url: str, file: str, log: list[Json]) -> list[Json]:
    """What a model is sent, behind the instructions, when the user says "hi" after this log."""
    async with talking(database_url, [says("ok")], agents_file=file) as (client, model):
        await make(client)
        await append(client, *log)
        await ask(client, user("hi"))
        return list(model.requests[0].body["messages"][1:])


async def test_of_a_long_history_the_newest_is_sent_from_a_question_on(
    database_url: str, agents_file: Path
) -> None:
    file = limited(agents_file, history_tokens=400)
    log = [{**said, "content": f"{said['content']} {n}"} for n in range(50) for said in (USER, ANSWER)]
    sent = await sent_of(database_url, file, log)
    assert sent[0]["role"] == "user"
    assert sent == [*log[-len(sent) + 1 :], {"role": "user", "content": "hi"}]
    assert 4 < len(sent) < 40


async def test_counted_tokens_count(database_url: str, agents_file: Path) -> None:
    file = limited(agents_file, history_tokens=1000)
    log = [USER, {**ANSWER, "token_count": 1000}]
    assert await sent_of(database_url, file, log) == [{"role": "user", "content": "hi"}]


async def test_the_question_is_sent_however_long_it_is(database_url: str, agents_file: Path) -> None:
    file = limited(agents_file, history_tokens=1)
    async with talking(database_url, [says("ok")], agents_file=file) as (client, model):
        await ask(client, user("x" * 1000))
        assert model.requests[0].body["messages"][1:] == [{"role": "user", "content": "x" * 1000}]


async def test_bytes_count_whatever_is_said_of_tokens(database_url: str, agents_file: Path) -> None:
    file = limited(agents_file, history_bytes=5000)
    log = [{**said, "content": "x" * 2000, "token_count": 1} for said in (USER, ANSWER) * 10]
    assert len(await sent_of(database_url, file, log)) == 3


async def test_results_of_too_many_bytes_end_the_turn_and_not_the_session(
    database_url: str, agents_file: Path
) -> None:
    file = limited(agents_file, history_bytes=5000)
    script = [calls(call("c", "look")), says("Better.")]
    async with talking(database_url, script, agents_file=file) as (client, _):
        await ask(client, user("Look."))
        events = await fails(client, result("c", "x" * 10_000), "history_too_large")
        assert "limits.history_bytes" in events[-1].data["error"]
        assert spoken(await ask(client, user("Never mind."))) == "Better."


async def test_a_long_result_does_not_lose_its_call(database_url: str, agents_file: Path) -> None:
    file = limited(agents_file, history_tokens=100)
    script = [calls(call("c", "look")), says("Seen.")]
    async with talking(database_url, script, agents_file=file) as (client, model):
        await ask(client, user("Look."))
        assert spoken(await ask(client, result("c", "x" * 1000))) == "Seen."
        sent = model.requests[1].body["messages"][1:]
        assert [message["role"] for message in sent] == ["user", "assistant", "tool"]
        assert (sent[1]["tool_calls"][0]["id"], sent[2]["content"]) == ("c", "x" * 1000)
