"""What the client of chat-completions servers asks, and the answers that it understands."""

from __future__ import annotations

import asyncio

import pytest

from runtime.agents.chat_completions import ChatCompletions
from runtime.agents.model import Answer, Question
from runtime.errors import ModelGarbled
from tests.support.model_client import (
    CALLS,
    KEY,
    QUESTION,
    Json,
    answer_to,
    asking,
    message,
    read_request,
    tcp_server,
)
from tests.support.model_server import (
    DONE,
    Reply,
    calls,
    chunk,
    end,
    fragments,
    model_server,
    raw,
    says,
    text,
)


async def test_a_question_is_asked_as_chat_completions_take_it() -> None:
    question = Question(
        [{"role": "user", "content": "grün 😀 \0"}],
        [{"type": "function", "function": {"name": "f"}}],
        model="chosen",
        parameters={"temperature": 0.5},
    )
    async with model_server([says("hi")]) as server, asking(server.url + "/v1/") as client:
        await client.ask(question)
        path, body, headers = server.requests[0]
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "chosen",
        "messages": question.messages,
        "tools": question.tools,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
    }
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert headers["Accept"] == "text/event-stream"
    assert headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("parameters", "sent"),
    [
        ({}, {"stream_options": {"include_usage": True}}),
        (
            {"stream_options": {"include_obfuscation": False}},
            {"stream_options": {"include_obfuscation": False}},
        ),
        ({"stream_options": False}, {}),
        ({"model": "other", "messages": [], "stream": False, "stream_options": False}, {}),
    ],
)
async def test_parameters_replace_stream_options_but_not_the_question(parameters: Json, sent: Json) -> None:
    async with model_server([says("hi")]) as server, asking(server.url) as client:
        await client.ask(Question(QUESTION.messages, [], parameters=parameters))
        body = server.requests[0].body
    assert body == {"model": "usual", "messages": QUESTION.messages, "stream": True, **sent}


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("", "/chat/completions"),
        ("/v1/", "/v1/chat/completions"),
        ("/v1?api-version=1&x=1+1", "/v1/chat/completions?api-version=1&x=1+1"),
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions/?api-version=1", "/v1/chat/completions?api-version=1"),
    ],
)
async def test_the_path_is_added_before_the_query_and_only_once(path: str, asked: str) -> None:
    seen = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await reader.readline()).decode().split()[1])
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + DONE)
        writer.close()

    async with tcp_server(serve) as url, asking(url + path) as client:
        await client.ask()
    assert seen == [asked]


async def test_the_usual_model_is_asked_without_tools_and_without_key() -> None:
    async with model_server([says("hi")]) as server:
        model = ChatCompletions(server.url, "", "usual", connect_timeout=9, timeout=9, retries=0)
        await model.ask(QUESTION, lambda _: None)
        await model.close()
        _, body, headers = server.requests[0]
    assert body["model"] == "usual"
    assert "tools" not in body
    assert "Authorization" not in headers


async def test_text_is_said_as_it_comes() -> None:
    gate = asyncio.Semaphore(0)
    async with model_server([says("Hel", "lo", gate=gate)]) as server, asking(server.url) as client:
        asked = asyncio.create_task(client.ask())
        gate.release()
        await client.heard.wait()
        assert client.said == ["Hel"]
        assert not asked.done()
        gate.release()
        gate.release()
        assert await asked == Answer("Hello", input_tokens=12, output_tokens=5)


async def test_calls_come_in_fragments_with_text_before() -> None:
    expected = Answer("I look. ", CALLS, "tool_calls", 12, 5)
    assert await answer_to(calls(*CALLS, before=["I ", "look. "])) == expected


async def test_an_answer_cut_at_every_byte_is_the_same() -> None:
    stream = b"".join([b": ping\r\n\r\n", *text("Grün ", "😀", "!"), *fragments(*CALLS), *end("tool_calls")])
    expected = Answer("Grün 😀!", CALLS, "tool_calls", 12, 5)
    # The network may join pieces again; test_fragments.py has each cut for certain.
    assert await answer_to(raw(*(stream[at : at + 1] for at in range(len(stream))))) == expected
    async with (
        model_server([raw(stream[:cut], stream[cut:]) for cut in range(1, len(stream))]) as server,
        asking(server.url) as client,
    ):
        answers = [await client.ask() for _ in range(1, len(stream))]
    assert answers == [expected] * (len(stream) - 1)


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"", None),
        (DONE, ""),
        (b"data:[DONE]\r\r", ""),
        (b"data: \n\n" + DONE, ""),
        (chunk({"role": "assistant"}, "stop"), ""),
        (chunk({"content": "x"}, "stop"), "x"),
        (chunk({"content": "x"}) + DONE + b"data: nonsense\n\n", "x"),
        (chunk({"content": "x"}), None),
    ],
)
async def test_an_answer_ends_with_done_or_with_a_finish_reason(stream: bytes, expected: str | None) -> None:
    if expected is None:
        assert "broke off" in await message(ModelGarbled, raw(stream))
    else:
        assert await answer_to(raw(stream)) == Answer(expected)


async def test_an_answer_with_a_finish_reason_survives_a_broken_connection() -> None:
    reply = Reply([chunk({"content": "x"}, "stop")], cut=True)
    assert await answer_to(reply) == Answer("x")


async def test_an_answer_with_a_finish_reason_survives_a_silent_server() -> None:
    reply = Reply([chunk({"content": "x"}, "stop")], hold=asyncio.Event())
    async with model_server([reply]) as server, asking(server.url, timeout=0.05) as client:
        assert await client.ask() == Answer("x")


async def test_the_rest_after_done_is_not_waited_for() -> None:
    reply = Reply([b"".join([*text("x"), DONE])], hold=asyncio.Event())
    async with model_server([reply]) as server, asking(server.url) as client:
        assert await client.ask() == Answer("x")
        await server.wait_until_left()
