"""Models that are asked for whole replies, the earlier service's language-model proxy among them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runtime.agents.chat_completions import ChatCompletions
from runtime.agents.engine import PROXY_FAILURE, make_model
from runtime.agents.model import Answer, Question, ToolCall
from runtime.config import Settings
from runtime.errors import ModelError, ModelGarbled, ModelUnavailable
from tests.model_server import Reply, model_server, raw, says, status

QUESTION = Question(messages=[{"role": "user", "content": "Hi"}], tools=[])
USAGE = {"prompt_tokens": 12, "completion_tokens": 5}


def whole(message: dict[str, Any], finish_reason: str = "stop", usage: Any = USAGE) -> Reply:
    """A whole reply, as chat-completions servers send it."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish_reason}
    body = {"object": "chat.completion", "choices": [choice], "usage": usage}
    return raw(json.dumps(body).encode(), content_type="application/json")


def model_at(url: str, **options: Any) -> ChatCompletions:
    defaults: dict[str, Any] = {"connect_timeout": 30.0, "timeout": 30.0, "retries": 0, "stream": False}
    return ChatCompletions(url, "k", "m", **{**defaults, **options})


async def ask(reply: Reply, question: Question = QUESTION, **options: Any) -> tuple[Answer, list[str], Any]:
    """The answer, the pieces of text handed on, and the body that was sent."""
    pieces: list[str] = []
    async with model_server([reply]) as server:
        model = model_at(server.url, **options)
        try:
            answer = await model.ask(question, pieces.append)
        finally:
            await model.close()
        return answer, pieces, server.requests[0]


async def test_text_and_counts_are_read() -> None:
    answer, pieces, asked = await ask(whole({"content": "Hello."}))
    assert answer == Answer("Hello.", (), "stop", 12, 5)
    assert pieces == ["Hello."]
    assert asked.body["stream"] is False
    assert "stream_options" not in asked.body


async def test_calls_are_read() -> None:
    functions = [{"name": "a", "arguments": "{}"}, {"name": "b", "arguments": '{"x": 1}'}]
    made = [{"id": f"c{n}", "type": "function", "function": each} for n, each in enumerate(functions)]
    answer, pieces, _ = await ask(whole({"content": None, "tool_calls": made}, "tool_calls"))
    assert answer.calls == (ToolCall("c0", "a", "{}"), ToolCall("c1", "b", '{"x": 1}'))
    assert (answer.finish_reason, pieces) == ("tool_calls", [])


async def test_calls_without_ids_or_under_one_id_stay_apart() -> None:
    function = {"name": "a", "arguments": "{}"}
    answer, _, _ = await ask(whole({"tool_calls": [{"function": function}, {"function": function}]}))
    assert len({call.id for call in answer.calls}) == 2


@pytest.mark.parametrize("usage", [None, "many", {"prompt_tokens": "x"}])
async def test_a_reply_without_counts_is_an_answer(usage: Any) -> None:
    answer, _, _ = await ask(whole({"content": "Hello.", "function_call": None}, usage=usage))
    assert (answer.text, answer.input_tokens, answer.output_tokens) == ("Hello.", 0, 0)


@pytest.mark.parametrize("body", [b"", b"[]", b"no", b'{"choices": 1}', b"[" * 100_000])
async def test_garbage_is_an_error(body: bytes) -> None:
    with pytest.raises(ModelGarbled):
        await ask(raw(body, content_type="application/json"))


async def test_a_stream_where_a_whole_reply_was_asked_for_is_an_error() -> None:
    with pytest.raises(ModelGarbled, match="instead of JSON"):
        await ask(says("Hello."))


async def test_an_error_in_a_reply_is_one_of_the_model() -> None:
    error = {"object": "error", "message": "no model", "type": "internal_error", "param": None, "code": None}
    for reply in (raw(json.dumps(error).encode(), content_type="application/json"), status(500, "no model")):
        with pytest.raises(ModelError, match="no model"):
            await ask(reply)


async def test_the_header_of_the_key_can_be_named() -> None:
    _, _, asked = await ask(whole({"content": "x"}), auth_header="X-Internal-Auth")
    assert asked.headers["X-Internal-Auth"] == "k"
    assert "Authorization" not in asked.headers
    _, _, asked = await ask(whole({"content": "x"}), auth_header="authorization")
    assert asked.headers["Authorization"] == "Bearer k"


async def test_the_proxy_is_asked_by_its_contract() -> None:
    parts = [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {}},
        {"type": "text", "text": "b"},
    ]
    question = Question(messages=[{"role": "user", "content": parts}], tools=[])
    async with model_server([whole({"content": "Hello."}, usage=None)]) as server:
        settings = Settings(
            llm_proxy_url=server.url.removesuffix("/v1"), internal_api_key="secret", llm_retries=0
        )
        model = make_model(settings)
        assert (await model.ask(question, lambda _: None)).text == "Hello."
        await model.close()
        [asked] = server.requests
        assert asked.headers["X-Internal-Auth"] == "secret"
        assert asked.body["stream"] is False
        assert asked.body["messages"] == [{"role": "user", "content": "a\nb"}]


async def test_the_words_of_a_proxy_without_a_model_are_no_answer() -> None:
    reply = whole({"content": f"{PROXY_FAILURE}: connection refused"})
    with pytest.raises(ModelUnavailable, match="connection refused"):
        await ask(reply, failure_prefix=PROXY_FAILURE)
