"""The connections of the client, and servers that speak no chat completions."""

from __future__ import annotations

import asyncio
import logging
import socket

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.agents.chat_completions import MAX_EVENT_BYTES, ChatCompletions
from runtime.agents.model import Answer, Question
from runtime.errors import ModelError, ModelGarbled, ModelTimeout, ModelUnavailable
from tests.support.model_client import (
    CALLS,
    PATIENCE,
    QUESTION,
    answer_to,
    asking,
    message,
    read_request,
    tcp_server,
)
from tests.support.model_server import (
    DONE,
    Reply,
    chunk,
    cut_after,
    event,
    fragments,
    model_server,
    raw,
    says,
    silence,
    status,
)


async def test_cancelling_breaks_the_connection_at_once() -> None:
    async with (
        model_server([silence(asyncio.Event(), "x"), says("y")]) as server,
        asking(server.url) as client,
    ):
        asked = asyncio.create_task(client.ask())
        await client.heard.wait()
        asked.cancel()
        await server.wait_until_left()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert (await client.ask()).text == "y"


@pytest.mark.slow
async def test_many_questions_are_asked_at_a_time() -> None:
    gate = asyncio.Event()
    many = 200
    async with model_server(lambda _: silence(gate, "x")) as server, asking(server.url) as client:
        asked = [asyncio.create_task(client.ask()) for _ in range(many)]
        await server.wait_for_requests(many)
        gate.set()
        failures = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(failure).__mro__[1] for failure in failures] == [ModelGarbled] * many


async def test_a_connection_that_is_read_to_its_end_is_used_again() -> None:
    ports = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ports.add(writer.get_extra_info("peername"))
        stream = chunk({"content": "x"}) + DONE
        for _ in range(3):
            await read_request(reader)
            head = (
                f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: {len(stream)}\r\n\r\n"
            )
            writer.write(head.encode() + stream)
        writer.close()

    async with tcp_server(serve) as url, asking(url) as client:
        for _ in range(3):
            await client.ask()
    assert len(ports) == 1


async def test_a_large_question_is_sent_whole() -> None:
    long = "x" * 5_000_000
    async with model_server([status(503), says("hi")]) as server, asking(server.url, retries=1) as client:
        await client.ask(Question([{"role": "user", "content": long}], []))
        assert [asked.body["messages"][0]["content"] for asked in server.requests] == [long, long]


async def test_retries_are_logged_without_contents(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "agent_runtime.model"):
        await answer_to(status(429, "secret words", retry_after="7"), cut_after(), says("hi"))
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "status 429: the model is asked again in 7.0 s"),
        ("WARNING", "model_garbled: the model is asked again in 1.0 s"),
    ]


async def test_no_cookies_are_kept() -> None:
    cookie = Reply([DONE], headers={"Content-Type": "text/event-stream", "Set-Cookie": "a=b"})
    async with model_server([cookie, says("hi")]) as server, asking(server.url) as client:
        await client.ask()
        await client.ask()
        assert "Cookie" not in server.requests[1].headers


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (b"data: nonsense\n\n", "not a chunk"),
        (event([]), "not a chunk"),
        (b"data: " + b"x" * MAX_EVENT_BYTES + b"\n\n", "more than 1048576 bytes"),
        (b": " + b"x" * MAX_EVENT_BYTES, "more than 1048576 bytes"),
        (chunk({"content": "x" * 500_000}) * 3, "endless text"),
        (b"<!DOCTYPE html>\n\n<html>\n\n", "broke off"),
    ],
)
async def test_a_garbled_stream_is_told(stream: bytes, words: str) -> None:
    assert words in await message(ModelGarbled, raw(stream))


async def replying(data: bytes, retries: int = 0) -> tuple[Answer | ModelError, list[float]]:
    """The answer or the error that these bytes lead to, as the whole reply on a connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(data)
        writer.close()

    async with tcp_server(serve) as url, asking(url, retries=retries) as client:
        try:
            return await client.ask(), client.pauses
        except ModelError as error:
            return error, client.pauses


async def test_a_server_that_closes_without_a_word_is_tried_again_and_then_told() -> None:
    error, pauses = await replying(b"", retries=2)
    assert isinstance(error, ModelUnavailable)
    assert str(error) == (
        "the language model's server cannot be reached: the connection broke before it answered"
    )
    assert pauses == [0.5, 1.0]


async def test_a_server_that_does_not_speak_http_is_told_at_once() -> None:
    error, pauses = await replying(b"SSH-2.0-OpenSSH_9.9\r\n", retries=2)
    assert isinstance(error, ModelGarbled)
    assert pauses == []


async def test_a_server_that_never_reads_is_given_up() -> None:
    left = asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await left.wait()
        writer.transport.abort()

    long = Question([{"role": "user", "content": "x" * 30_000_000}], [])
    async with tcp_server(serve) as url:
        model = ChatCompletions(url, "", "m", connect_timeout=0.1, timeout=0.1, retries=0)
        with pytest.raises(ModelTimeout):
            await model.ask(long, lambda _: None)
        left.set()
        await model.close()


async def test_a_refused_connection_is_tried_again_and_then_told() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        async with asking(url, retries=2) as client:
            said = await client.fail(ModelUnavailable)
            assert said == "the language model's server cannot be reached: connection refused"
            assert client.pauses == [0.5, 1.0]


async def test_a_host_that_is_not_known_is_told() -> None:
    async with asking("http://nowhere.invalid") as client:
        assert "the name of its host is not known" in await client.fail(ModelUnavailable)


async def test_a_server_without_tls_behind_https_is_told() -> None:
    async with model_server([]) as server, asking(server.url.replace("http", "https")) as client:
        assert "no secure connection" in await client.fail(ModelUnavailable)


async def test_a_connection_that_is_not_accepted_in_time_is_told() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        # Linux takes one connection more than the backlog; the next waits.
        with socket.create_connection(address):
            model = ChatCompletions(
                f"http://127.0.0.1:{address[1]}", "", "m", connect_timeout=0.1, timeout=PATIENCE, retries=0
            )
            with pytest.raises(ModelUnavailable, match=r"no connection within 0\.1 seconds"):
                await model.ask(QUESTION, lambda _: None)
            await model.close()


STREAM_PARTS = st.sampled_from(
    [
        *(b"data: ", b"data:", b"\n\n", b"\r\n", b"\xff", b"{", b"}", b"[", b'"', b"null", b"1e999", b":"),
        *(chunk({"content": "x"}), chunk({"content": None}, "stop"), DONE, *fragments(*CALLS)),
        *(
            event({"choices": [{"delta": {"tool_calls": [{}]}}]}),
            event({"error": [[[]]]}),
            event({"usage": {}}),
        ),
    ]
)
HTTP_PARTS = st.sampled_from(
    [
        *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200\r\n", b"HTTP/1.1 429 \r\n", b"HTTP/1.1 999 \xff\r\n"),
        *(
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n",
            b"\r\n",
            b"\r\n\r\n",
        ),
        *(b"Content-Type: text/event-stream\r\n", b"Content-Type: ;;=\xff/\r\n", b"Content-Length: 9\r\n"),
        *(b"Transfer-Encoding: chunked\r\n", b"Content-Encoding: gzip\r\n", b"Content-Encoding: zstd\r\n"),
        *(
            b"Retry-After: 1\r\n",
            b"Content-Length: -1\r\n",
            b"Location: http://[\r\n",
            b"Set-Cookie: \xff\r\n",
        ),
        *(b"4\r\nabcd\r\n", b"0\r\n\r\n", b"zz\r\n", b"\x1f\x8b\x08", b"\0"),
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
    ]
)
FUZZED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@FUZZED
@given(st.lists(STREAM_PARTS | st.binary(max_size=20), max_size=12).map(b"".join))
def test_of_any_stream_comes_an_answer_or_a_model_error(stream: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    found, _ = asyncio.run(replying(head + stream))
    assert isinstance(found, Answer | ModelError)


@FUZZED
@given(st.lists(HTTP_PARTS | STREAM_PARTS | st.binary(max_size=20), max_size=12).map(b"".join))
def test_of_any_bytes_comes_an_answer_or_a_model_error(data: bytes) -> None:
    found, _ = asyncio.run(replying(data))
    assert isinstance(found, Answer | ModelError)
