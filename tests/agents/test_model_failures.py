"""Servers that refuse, fail or fall silent: asked again where that may help, then told in clear words."""

from __future__ import annotations

import asyncio

import pytest

from runtime.agents.model import Answer
from runtime.errors import ModelGarbled, ModelRefused, ModelTimeout, ModelUnavailable
from tests.support.model_client import CALLS, KEY, answer_to, asking, message
from tests.support.model_server import (
    DONE,
    Reply,
    chunk,
    cut_after,
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


async def test_a_busy_server_is_asked_again_when_it_says() -> None:
    replies = [status(429, retry_after="7"), status(503, retry_after="0.5"), says("hi")]
    async with model_server(replies) as server, asking(server.url, retries=3) as client:
        assert (await client.ask()).text == "hi"
        assert client.pauses == [7, 0.5]


@pytest.mark.parametrize(
    ("after", "pause"),
    [
        ("Wed, 21 Oct 2026 07:28:09 GMT", 9.0),
        ("Wed, 21 Oct 2026 07:27:00 GMT", 0.0),
        ("soon", 0.5),
        ("-1", 0.5),
        ("Wed, 99999999999999999999 Oct 2026 07:28:09 GMT", 0.5),
        ("", 0.5),
    ],
)
async def test_a_retry_date_counts_from_the_servers_clock(after: str, pause: float) -> None:
    refusal = status(429, retry_after=after, Date="Wed, 21 Oct 2026 07:28:00 GMT")
    async with model_server([refusal, says("hi")]) as server, asking(server.url, retries=1) as client:
        await client.ask()
        assert client.pauses == [pause]


@pytest.mark.parametrize("after", ["61", "9" * 400])
async def test_a_server_that_asks_for_too_long_a_pause_is_given_up_at_once(after: str) -> None:
    said = await message(ModelUnavailable, status(429, "quota", retry_after=after), retries=3)
    assert "429 Too Many Requests: quota" in said
    assert "not to be asked again for" in said


async def test_pauses_double_up_to_the_longest_with_full_jitter() -> None:
    replies = [status(500)] * 9
    async with model_server(replies) as server, asking(server.url, retries=8, draw=0.5) as client:
        await client.fail(ModelUnavailable)
        assert [2 * pause for pause in client.pauses] == [0.5, 1, 2, 4, 8, 16, 20, 20]


@pytest.mark.parametrize("number", [408, 409, 425, 429, 500, 502, 503, 504, 529])
async def test_refusals_that_pass_are_tried_again_and_then_told(number: int) -> None:
    said = await message(ModelUnavailable, status(number, "not\nnow"), status(number, "not\nnow"), retries=1)
    assert f"answered {number}" in said
    assert said.endswith(": not now")


@pytest.mark.parametrize("number", [301, 307, 400, 401, 403, 404, 413, 422])
async def test_other_refusals_are_told_at_once(number: int) -> None:
    said = await message(ModelRefused, status(number, "no", Location="/elsewhere"), retries=3)
    assert f"answered {number}" in said


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "no such model"}}', ": no such model"),
        (b'{"error": "no such model"}', ": no such model"),
        (b'{"message": "no such model"}', ": no such model"),
        (b'{"detail": [{"loc": ["body"], "msg": "wrong"}]}', ": [{'loc': ['body'], 'msg': 'wrong'}]"),
        (b'{"error": {"code": 7}}', ": {'code': 7}"),
        (b"just  words\x00\r\nand more\xff", ": just words and more\ufffd"),
        (b" <HTML><p>a page", ": an HTML page"),
        (b"[" * 50_000, ": " + "[" * 299 + "…"),
        (b"x" * 200_000, ": " + "x" * 299 + "…"),
        (f'{{"error": {{"message": "wrong key {KEY}!"}}}}'.encode(), ": wrong key ***!"),
        (b"", "400 Bad Request"),
    ],
)
async def test_the_servers_words_are_told_in_one_line(body: bytes, words: str) -> None:
    said = await message(ModelRefused, Reply([body], 400, {"Content-Type": "text/plain"}))
    assert said.startswith("the language model's server answered 400 Bad Request")
    assert said.endswith(words)


async def test_an_html_page_is_called_one() -> None:
    assert await message(ModelUnavailable, html(502)) == (
        "the language model's server answered 502 Bad Gateway: an HTML page"
    )
    assert "answered 404 Not Found: an HTML page" in await message(ModelRefused, html(404))


@pytest.mark.parametrize("kind", ["application/json", "text/html; charset=utf-8", "x", ""])
async def test_another_content_type_than_a_stream_is_named(kind: str) -> None:
    said = await message(ModelGarbled, raw(b"{}", content_type=kind), retries=3)
    assert f"sent {kind} instead of a stream" in said or not kind


async def test_a_status_without_content_is_no_stream() -> None:
    assert "instead of a stream" in await message(ModelGarbled, Reply([], 204, {}))


async def test_an_error_in_the_stream_is_tried_again_before_the_first_token() -> None:
    error = event({"error": {"message": "overloaded", "code": 529}})
    assert (await answer_to(raw(chunk({"role": "assistant"}), error), says("hi"))).text == "hi"
    said = await message(ModelUnavailable, raw(error), raw(error), retries=1)
    assert said == "the language model failed: overloaded"


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (event({"object": "error", "message": "boom", "code": 500}), "failed: boom"),
        (event({"object": "error", "error": {"message": "boom"}}), "failed: boom"),
        (event({"object": "error"}), "failed and gave no reason"),
        (chunk({"content": ""}, "error"), "failed and gave no reason"),
        (event({"choices": [{"finish_reason": "error"}], "error": "boom"}), "failed: boom"),
    ],
)
async def test_a_failure_is_told_in_whatever_form_it_comes(failure: bytes, words: str) -> None:
    assert (await answer_to(raw(failure, DONE), says("hi"))).text == "hi"
    assert await message(ModelUnavailable, raw(failure, DONE)) == f"the language model {words}"


async def test_objects_that_are_no_chunks_are_skipped_and_are_no_answer() -> None:
    ping = event({"type": "ping"})
    assert await answer_to(raw(ping, chunk({"content": "x"}), ping, DONE)) == Answer("x")
    assert "broke off" in await message(ModelGarbled, raw(ping, ping))


@pytest.mark.parametrize("begun", [text("x"), fragments(*CALLS)])
async def test_nothing_is_tried_again_after_the_first_token(begun: list[bytes]) -> None:
    error = event({"choices": [], "error": "overloaded"})
    assert "overloaded" in await message(ModelUnavailable, raw(*begun, error), retries=3)
    assert "broke off" in await message(ModelGarbled, Reply(begun, cut=True), retries=3)
    assert "broke off" in await message(ModelGarbled, raw(*begun), retries=3)


async def test_a_connection_that_breaks_before_the_first_token_is_tried_again() -> None:
    broken = [cut_after(), Reply([chunk({"role": "assistant"})], cut=True), raw(b": nothing\n\n")]
    assert (await answer_to(*broken, says("hi"))).text == "hi"
    assert "broke off" in await message(ModelGarbled, cut_after(), cut_after(), retries=1)


async def test_silence_before_the_first_token_is_tried_again_and_then_told() -> None:
    replies = [silence(asyncio.Event()), silence(asyncio.Event())]
    async with model_server(replies) as server, asking(server.url, timeout=0.05, retries=1) as client:
        assert await client.fail(ModelTimeout) == "the language model said nothing for 0.05 seconds"
        await server.wait_until_left(2)
        assert client.pauses == [0.5]


async def test_silence_after_the_first_token_is_told_at_once() -> None:
    replies = [silence(asyncio.Event(), "x")]
    async with model_server(replies) as server, asking(server.url, timeout=0.05, retries=3) as client:
        await client.fail(ModelTimeout)
        assert (client.said, client.pauses) == (["x"], [])
