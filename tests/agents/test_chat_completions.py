"""The client of chat-completions servers, against one that does what its script says."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.agents.chat_completions import MAX_EVENT_BYTES, ChatCompletions
from runtime.agents.model import Answer, Question, ToolCall
from runtime.errors import (
    ModelError,
    ModelGarbled,
    ModelRefused,
    ModelTimeout,
    ModelUnavailable,
)
from tests.model_server import (
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

Json = Any

KEY = "sk-secret"
QUESTION = Question([{"role": "user", "content": "hello"}], [])
CALLS = (ToolCall("a", "read_file", '{"path": "grün.md"}'), ToolCall("b", "list_files", '{"path": "."}'))
PATIENCE = 30.0


class Asking:
    """A client of a server, with what it said and how long it paused."""

    def __init__(self, url: str, *, retries: int = 0, timeout: float = PATIENCE, draw: float = 1.0) -> None:
        self.said: list[str] = []
        self.pauses: list[float] = []
        self.heard = asyncio.Event()
        self.model = ChatCompletions(
            url,
            KEY,
            "usual",
            connect_timeout=PATIENCE,
            timeout=timeout,
            retries=retries,
            sleep=self._sleep,
            draw=lambda: draw,
        )

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def _say(self, piece: str) -> None:
        self.said.append(piece)
        self.heard.set()

    async def ask(self, question: Question = QUESTION) -> Answer:
        return await self.model.ask(question, self._say)

    async def fail(self, kind: type[ModelError]) -> str:
        """The message of the error, which must be of this kind."""
        with pytest.raises(kind) as caught:
            await self.ask()
        assert KEY not in str(caught.value)
        assert "\n" not in str(caught.value)
        return str(caught.value)


@asynccontextmanager
async def asking(url: str, **options: Any) -> AsyncIterator[Asking]:
    client = Asking(url, **options)
    try:
        yield client
    finally:
        await client.model.close()


async def message(kind: type[ModelError], *replies: Reply, retries: int = 0) -> str:
    """What the error says that these replies lead to; all of them must be asked for."""
    async with model_server(replies) as server, asking(server.url, retries=retries) as client:
        said = await client.fail(kind)
        assert len(server.requests) == len(replies)
        return said


async def answer_to(*replies: Reply) -> Answer:
    """The answer that comes, though the server may be asked as often as there are replies."""
    async with (
        model_server(replies) as server,
        asking(server.url, retries=len(replies) - 1) as client,
    ):
        answer = await client.ask()
        assert answer.text == "".join(client.said)
        return answer


async def test_a_question_is_asked_as_chat_completions_take_it():
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
async def test_parameters_may_replace_the_options_of_the_stream_but_not_what_is_asked(
    parameters: Json, sent: Json
):
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
async def test_the_path_is_added_before_the_query_and_only_once(path: str, asked: str):
    seen = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await reader.readline()).decode().split()[1])
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + DONE)
        writer.close()

    async with tcp_server(serve) as url, asking(url + path) as client:
        await client.ask()
    assert seen == [asked]


async def test_the_usual_model_is_asked_without_tools_and_without_key():
    async with model_server([says("hi")]) as server:
        model = ChatCompletions(server.url, "", "usual", connect_timeout=9, timeout=9, retries=0)
        await model.ask(QUESTION, lambda _: None)
        await model.close()
        _, body, headers = server.requests[0]
    assert body["model"] == "usual"
    assert "tools" not in body
    assert "Authorization" not in headers


async def test_text_is_said_as_it_comes():
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


async def test_calls_come_in_fragments_with_text_before():
    expected = Answer("I look. ", CALLS, "tool_calls", 12, 5)
    assert await answer_to(calls(*CALLS, before=["I ", "look. "])) == expected


async def test_an_answer_cut_at_every_byte_is_the_same():
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
async def test_an_answer_ends_with_done_or_with_a_finish_reason(stream: bytes, expected: str | None):
    if expected is None:
        assert "broke off" in await message(ModelGarbled, raw(stream))
    else:
        assert await answer_to(raw(stream)) == Answer(expected)


async def test_an_answer_with_its_finish_reason_is_whole_though_the_connection_breaks():
    reply = Reply([chunk({"content": "x"}, "stop")], cut=True)
    assert await answer_to(reply) == Answer("x")


async def test_an_answer_with_its_finish_reason_is_whole_though_the_server_then_falls_silent():
    reply = Reply([chunk({"content": "x"}, "stop")], hold=asyncio.Event())
    async with model_server([reply]) as server, asking(server.url, timeout=0.05) as client:
        assert await client.ask() == Answer("x")


async def test_the_rest_after_done_is_not_waited_for():
    reply = Reply([b"".join([*text("x"), DONE])], hold=asyncio.Event())
    async with model_server([reply]) as server, asking(server.url) as client:
        assert await client.ask() == Answer("x")
        await server.wait_until_left()


async def test_a_busy_server_is_asked_again_when_it_says():
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
async def test_a_date_is_counted_from_the_servers_own_and_nonsense_is_passed_over(after: str, pause: float):
    refusal = status(429, retry_after=after, Date="Wed, 21 Oct 2026 07:28:00 GMT")
    async with model_server([refusal, says("hi")]) as server, asking(server.url, retries=1) as client:
        await client.ask()
        assert client.pauses == [pause]


@pytest.mark.parametrize("after", ["61", "9" * 400])
async def test_a_server_that_asks_for_too_long_a_pause_is_given_up_at_once(after: str):
    said = await message(ModelUnavailable, status(429, "quota", retry_after=after), retries=3)
    assert "429 Too Many Requests: quota" in said
    assert "not to be asked again for" in said


async def test_pauses_double_up_to_the_longest_and_are_drawn_from_their_whole_length():
    replies = [status(500)] * 9
    async with model_server(replies) as server, asking(server.url, retries=8, draw=0.5) as client:
        await client.fail(ModelUnavailable)
        assert [2 * pause for pause in client.pauses] == [0.5, 1, 2, 4, 8, 16, 20, 20]


@pytest.mark.parametrize("number", [408, 409, 425, 429, 500, 502, 503, 504, 529])
async def test_refusals_that_pass_are_tried_again_and_then_told(number: int):
    said = await message(ModelUnavailable, status(number, "not\nnow"), status(number, "not\nnow"), retries=1)
    assert f"answered {number}" in said
    assert said.endswith(": not now")


@pytest.mark.parametrize("number", [301, 307, 400, 401, 403, 404, 413, 422])
async def test_other_refusals_are_told_at_once(number: int):
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
async def test_the_servers_words_are_told_in_one_line(body: bytes, words: str):
    said = await message(ModelRefused, Reply([body], 400, {"Content-Type": "text/plain"}))
    assert said.startswith("the language model's server answered 400 Bad Request")
    assert said.endswith(words)


async def test_an_html_page_is_called_one():
    assert await message(ModelUnavailable, html(502)) == (
        "the language model's server answered 502 Bad Gateway: an HTML page"
    )
    assert "answered 404 Not Found: an HTML page" in await message(ModelRefused, html(404))


@pytest.mark.parametrize("kind", ["application/json", "text/html; charset=utf-8", "x", ""])
async def test_another_content_type_than_a_stream_is_named(kind: str):
    said = await message(ModelGarbled, raw(b"{}", content_type=kind), retries=3)
    assert f"sent {kind} instead of a stream" in said or not kind


async def test_a_status_without_content_is_no_stream():
    assert "instead of a stream" in await message(ModelGarbled, Reply([], 204, {}))


async def test_an_error_in_the_stream_is_tried_again_before_the_first_token():
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
async def test_a_failure_is_told_in_whatever_form_it_comes(failure: bytes, words: str):
    assert (await answer_to(raw(failure, DONE), says("hi"))).text == "hi"
    assert await message(ModelUnavailable, raw(failure, DONE)) == f"the language model {words}"


async def test_objects_that_are_no_chunks_are_skipped_and_are_no_answer():
    ping = event({"type": "ping"})
    assert await answer_to(raw(ping, chunk({"content": "x"}), ping, DONE)) == Answer("x")
    assert "broke off" in await message(ModelGarbled, raw(ping, ping))


@pytest.mark.parametrize("begun", [text("x"), fragments(*CALLS)])
async def test_nothing_is_tried_again_after_the_first_token(begun: list[bytes]):
    error = event({"choices": [], "error": "overloaded"})
    assert "overloaded" in await message(ModelUnavailable, raw(*begun, error), retries=3)
    assert "broke off" in await message(ModelGarbled, Reply(begun, cut=True), retries=3)
    assert "broke off" in await message(ModelGarbled, raw(*begun), retries=3)


async def test_a_connection_that_breaks_before_the_first_token_is_tried_again():
    broken = [cut_after(), Reply([chunk({"role": "assistant"})], cut=True), raw(b": nothing\n\n")]
    assert (await answer_to(*broken, says("hi"))).text == "hi"
    assert "broke off" in await message(ModelGarbled, cut_after(), cut_after(), retries=1)


async def test_silence_before_the_first_token_is_tried_again_and_then_told():
    replies = [silence(asyncio.Event()), silence(asyncio.Event())]
    async with model_server(replies) as server, asking(server.url, timeout=0.05, retries=1) as client:
        assert await client.fail(ModelTimeout) == "the language model said nothing for 0.05 seconds"
        await server.wait_until_left(2)
        assert client.pauses == [0.5]


async def test_silence_after_the_first_token_is_told_at_once():
    replies = [silence(asyncio.Event(), "x")]
    async with model_server(replies) as server, asking(server.url, timeout=0.05, retries=3) as client:
        await client.fail(ModelTimeout)
        assert (client.said, client.pauses) == (["x"], [])


async def test_cancelling_breaks_the_connection_at_once():
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


async def test_many_questions_are_asked_at_a_time():
    gate = asyncio.Event()
    many = 200
    async with model_server(lambda _: silence(gate, "x")) as server, asking(server.url) as client:
        asked = [asyncio.create_task(client.ask()) for _ in range(many)]
        await server.wait_for_requests(many)
        gate.set()
        failures = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(failure).__mro__[1] for failure in failures] == [ModelGarbled] * many


async def test_a_connection_that_is_read_to_its_end_is_used_again():
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


async def test_a_large_question_is_sent_whole():
    long = "x" * 5_000_000
    async with model_server([status(503), says("hi")]) as server, asking(server.url, retries=1) as client:
        await client.ask(Question([{"role": "user", "content": long}], []))
        assert [asked.body["messages"][0]["content"] for asked in server.requests] == [long, long]


async def test_retries_are_logged_without_contents(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "agent_runtime.model"):
        await answer_to(status(429, "secret words", retry_after="7"), cut_after(), says("hi"))
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "status 429: the model is asked again in 7.0 s"),
        ("WARNING", "model_garbled: the model is asked again in 1.0 s"),
    ]


async def test_no_cookies_are_kept():
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
async def test_a_garbled_stream_is_told(stream: bytes, words: str):
    assert words in await message(ModelGarbled, raw(stream))


@asynccontextmanager
async def tcp_server(serve: Callable[..., Any]) -> AsyncIterator[str]:
    """The URL of a server that is no HTTP server unless it behaves like one."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def read_request(reader: asyncio.StreamReader) -> None:
    """Read one request with its body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    await reader.readexactly(int(head.split("content-length:")[1].split("\r\n")[0]))


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


async def test_a_server_that_closes_without_a_word_is_tried_again_and_then_told():
    error, pauses = await replying(b"", retries=2)
    assert isinstance(error, ModelUnavailable)
    assert str(error) == (
        "the language model's server cannot be reached: the connection broke before it answered"
    )
    assert pauses == [0.5, 1.0]


async def test_a_server_that_does_not_speak_http_is_told_at_once():
    error, pauses = await replying(b"SSH-2.0-OpenSSH_9.9\r\n", retries=2)
    assert isinstance(error, ModelGarbled)
    assert pauses == []


async def test_a_server_that_never_reads_is_given_up():
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


async def test_a_refused_connection_is_tried_again_and_then_told():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        async with asking(url, retries=2) as client:
            said = await client.fail(ModelUnavailable)
            assert said == "the language model's server cannot be reached: connection refused"
            assert client.pauses == [0.5, 1.0]


async def test_a_host_that_is_not_known_is_told():
    async with asking("http://nowhere.invalid") as client:
        assert "the name of its host is not known" in await client.fail(ModelUnavailable)


async def test_a_server_without_tls_behind_https_is_told():
    async with model_server([]) as server, asking(server.url.replace("http", "https")) as client:
        assert "no secure connection" in await client.fail(ModelUnavailable)


async def test_a_connection_that_is_not_accepted_in_time_is_told():
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
def test_of_any_stream_comes_an_answer_or_a_model_error(stream: bytes):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    found, _ = asyncio.run(replying(head + stream))
    assert isinstance(found, Answer | ModelError)


@FUZZED
@given(st.lists(HTTP_PARTS | STREAM_PARTS | st.binary(max_size=20), max_size=12).map(b"".join))
def test_of_any_bytes_comes_an_answer_or_a_model_error(data: bytes):
    found, _ = asyncio.run(replying(data))
    assert isinstance(found, Answer | ModelError)
