"""Whatever a model sends: the client is told clearly, what was said is kept, and the session takes the next
turn. On both databases."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.agents.model import ToolCall
from runtime.agents.stream_assembler import MAX_CHARACTERS
from tests.support.api_server import Client
from tests.support.model_server import (
    DONE,
    Reply,
    calls,
    chunk,
    cut_after,
    end,
    event,
    fragments,
    html,
    model_server,
    raw,
    says,
    silence,
    status,
    text,
)
from tests.support.turn_requests import ask, call, fails, gist, messages, spoken, talking, turns, user

pytestmark = pytest.mark.slow

REFUSALS: list[tuple[Reply, str, str]] = [
    (html(), "model_unavailable", "502 Bad Gateway: an HTML page"),
    (html(200), "model_garbled", "text/html; charset=utf-8 instead of a stream of events"),
    (raw(b"{}", content_type="application/json"), "model_garbled", "application/json instead of"),
    (status(401, "no such key"), "model_refused", "401 Unauthorized: no such key"),
    (status(404, "no such model"), "model_refused", "404 Not Found: no such model"),
    (status(429, "slow down"), "model_unavailable", "429 Too Many Requests: slow down"),
    (status(503), "model_unavailable", "503 Service Unavailable"),
    (raw(b""), "model_garbled", "broke off"),
    (raw(b"data: {]\n\n"), "model_garbled", "not a chunk"),
    (raw(event({"error": {"message": "out of memory"}})), "model_unavailable", "failed: out of memory"),
    (raw(*[chunk({"tool_calls": [{"index": 0}]}, "tool_calls"), DONE]), "model_garbled", "names no tool"),
]


@pytest.mark.parametrize(("reply", "code", "words"), REFUSALS)
async def test_a_model_that_does_not_answer(database_url: str, reply: Reply, code: str, words: str) -> None:
    async with talking(database_url, [reply, says("Better.")]) as (client, _):
        events = await fails(client, user("hi"), code)
        assert [event.name for event in events] == ["turn", "error"]
        assert words in events[-1].data["error"]
        assert [message["role"] for message in await messages(client)] == ["user"]
        await goes_on(client)


async def goes_on(client: Client) -> None:
    """The session takes the next turn, and the model answers it."""
    assert spoken(await ask(client, user("Try again."))) == "Better."
    assert [turn["status"] for turn in await turns(client, "?limit=2")] == ["completed", "failed"]


async def said_before_it_failed(client: Client, code: str) -> str:
    """What a failed turn said, which its last event but one repeats and the log keeps, marked."""
    events = await fails(client, user("hi"), code)
    stored = (await messages(client))[1]
    assert (stored["role"], stored["metadata"]["failed"]) == ("assistant", True)
    final = {"type": "assistant_message", "content": stored["content"], "is_final": True}
    assert (events[-2].name, events[-2].data) == ("message", final)
    assert spoken(events) == stored["content"]
    return str(stored["content"])


BREAKS: list[tuple[Reply, str]] = [
    (cut_after("So ", "far"), "model_garbled"),
    (raw(*text("So ", "far")), "model_garbled"),
    (raw(*text("So ", "far"), event({"error": "overloaded"})), "model_unavailable"),
    (raw(*text("So ", "far"), b"data: nonsense\n\n"), "model_garbled"),
]


@pytest.mark.parametrize(("reply", "code"), BREAKS)
async def test_a_model_that_breaks_off(database_url: str, reply: Reply, code: str) -> None:
    async with talking(database_url, [reply, says("Better.")]) as (client, model):
        assert await said_before_it_failed(client, code) == "So far"
        await goes_on(client)
        sent = [message["content"] for message in model.requests[1].body["messages"][1:]]
        assert sent == ["hi", "So far", "Try again."]


async def test_a_model_that_falls_silent(database_url: str) -> None:
    hold = asyncio.Event()
    script = [silence(hold, "So far"), says("Better.")]
    async with talking(database_url, script, llm_timeout=0.2) as (client, _):
        assert await said_before_it_failed(client, "model_timeout") == "So far"
        await goes_on(client)


async def test_a_model_that_never_says_a_word(database_url: str) -> None:
    hold = asyncio.Event()
    async with talking(database_url, [silence(hold), says("Better.")], llm_timeout=0.2) as (client, _):
        await fails(client, user("hi"), "model_timeout")
        await goes_on(client)


async def test_a_model_that_never_ends(database_url: str) -> None:
    piece = "x" * 100_000
    script = [says(*[piece] * (MAX_CHARACTERS // len(piece) + 1)), says("Better.")]
    async with talking(database_url, script) as (client, _):
        said = await said_before_it_failed(client, "model_garbled")
        assert 0 < len(said) <= MAX_CHARACTERS
        await goes_on(client)


async def test_a_model_that_sends_bytes_without_end(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.agents.chat_completions.MAX_STREAM_BYTES", 3_000_000)
    script = [raw(*text("So ", "far"), *[b": ping\n\n" * 10_000] * 50), says("Better.")]
    async with talking(database_url, script) as (client, _):
        assert await said_before_it_failed(client, "model_garbled") == "So far"
        await goes_on(client)


async def test_a_model_that_cuts_its_calls_into_the_smallest_pieces(database_url: str) -> None:
    """One event of 12,000 of them is refused; as many events are an answer like any other."""
    piece = {"index": 0, "function": {"name": "read_file", "arguments": " "}}
    flood = chunk({"tool_calls": [piece] * 12_000})
    arguments = '{"path": ' + " " * 12_000 + '"a"}'
    made = ToolCall("c", "read_file", arguments)
    script = [raw(flood), says("Better."), raw(*fragments(made, size=1), *end("tool_calls"))]
    async with talking(database_url, script) as (client, _):
        await fails(client, user("hi"), "model_garbled")
        await goes_on(client)
        events = await ask(client, user("Look."))
        assert (events[-2].data["type"], events[-2].data["arguments"]) == ("tool_call", {"path": "a"})


async def test_a_model_that_nobody_serves(database_url: str) -> None:
    async with model_server([]) as gone:
        url = gone.url
    async with talking(database_url, [], llm_url=url) as (client, _):
        events = await fails(client, user("hi"), "model_unavailable")
        assert "cannot be reached" in events[-1].data["error"]


async def test_a_model_that_is_busy_is_asked_again(database_url: str) -> None:
    script = [status(429, retry_after="0"), status(500, retry_after="0"), says("Better.")]
    async with talking(database_url, script, llm_retries=2) as (client, model):
        assert spoken(await ask(client, user("hi"))) == "Better."
        assert len(model.requests) == 3


WRONG_CALLS: list[tuple[ToolCall, str]] = [
    (ToolCall("c", "read_file", '{"path": "a'), "Error: The arguments are not JSON that can be read"),
    (ToolCall("c", "read_file", "[1]"), "Error: The arguments of read_file must be a JSON object."),
    (
        ToolCall("c", "read_file", '{"path": 1}'),
        "Error: The arguments do not fit the parameters of read_file",
    ),
    (
        ToolCall("c", "read_file", '{"path": "a", "path": "b"}'),
        "Error: The arguments have an object in which",
    ),
    (ToolCall("c", "read_file", "[" * 10_000), "Error: The arguments"),
    (ToolCall("c", "read_file", '{"path": NaN}'), "Error: The arguments"),
    (ToolCall("c", "raed_file", "{}"), "Error: There is no tool 'raed_file'. You may call: read_file"),
    (ToolCall("c", "write_file", "{}"), "Error: The agent 'orchestrator' may not call 'write_file'."),
    (call("c", "switch_agent", agent="nobody", reason="?"), "Error: The arguments do not fit"),
    (call("c", "switch_agent", agent="orchestrator", reason="?"), "Error: The arguments do not fit"),
]


def sent_back(wrong: ToolCall) -> dict[str, str]:
    is_object = wrong.arguments.endswith("}") and "NaN" not in wrong.arguments
    return {"name": wrong.name, "arguments": wrong.arguments if is_object else "{}"}


@pytest.mark.parametrize(("wrong", "words"), WRONG_CALLS)
async def test_a_wrong_call_is_answered_to_the_model(database_url: str, wrong: ToolCall, words: str) -> None:
    async with talking(database_url, [calls(wrong), says("Better.")]) as (client, model):
        events = await ask(client, user("hi"))
        assert spoken(events) == "Better."
        assert gist(events)[-1] == ("done", {"status": "completed"})
        assert "tool_call" not in {event.data.get("type") for event in events}
        made, answer = model.requests[1].body["messages"][-2:]
        # Word for word it stands in the log alone: strict servers refuse their own mistakes.
        assert made["tool_calls"][0]["function"] == sent_back(wrong)
        log = [message for message in await messages(client) if message["role"] == "assistant"]
        function = log[0]["tool_calls"][0]["function"]
        assert function == {"name": wrong.name, "arguments": wrong.arguments}
        assert (answer["role"], answer["tool_call_id"]) == ("tool", "c")
        assert answer["content"].startswith(words)


async def test_two_handovers_in_one_answer(database_url: str) -> None:
    both = [call(name, "switch_agent", agent=name, reason="?") for name in ("ask", "debug")]
    async with talking(database_url, [calls(*both), says("Better.")]) as (client, model):
        assert spoken(await ask(client, user("hi"))) == "Better."
        first, second = model.requests[1].body["messages"][-2:]
        assert first["content"] == "The conversation is handed over to ask."
        assert second["content"].startswith("Error: The conversation is handed over already")


PARTS = st.sampled_from(
    [
        *text("a", "😀"),
        chunk({}, "stop"),
        DONE,
        chunk({"tool_calls": [{"index": 0, "id": "\x00"}]}),
        b"data: ",
    ]
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(replies=st.lists(st.lists(PARTS | st.binary(max_size=30), max_size=8), min_size=1, max_size=8))
def test_of_any_bytes_comes_an_end(sqlite_url: str, replies: list[list[bytes]]) -> None:
    asyncio.run(hear_all(sqlite_url, replies))


async def hear_all(url: str, replies: list[list[bytes]]) -> None:
    """Ask one session again and again; each turn must end, whatever the model sends."""
    script = [*(raw(*reply) for reply in replies), says("Better.")]
    async with talking(url, script) as (client, _):
        for _ in replies:
            last = (await ask(client, user("hi")))[-1]
            assert last.name == "done" or (last.name, last.data["code"]) == ("error", "model_garbled")
        assert spoken(await ask(client, user("Try again."))) == "Better."
