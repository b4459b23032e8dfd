"""Every example of runtime/api/README.md, sent in order to a real server."""

from __future__ import annotations

import http.client
from pathlib import Path

from tests.support.documents import Example, Replies, examples, read
from tests.support.server_process import ServerProcess, start_server

DOCUMENT = "runtime/api/README.md"


def test_the_api_answers_every_example_as_documented(tmp_path: Path) -> None:
    replies = Replies()
    with start_server({"DB_URL": f"sqlite:///{tmp_path}/conversations.db"}, tmp_path) as server:
        for example in examples(read(DOCUMENT)):
            _check(server, example, replies)


def _check(server: ServerProcess, example: Example, replies: Replies) -> None:
    place = f"{DOCUMENT}, line {example.line}: {example.method} {example.path}"
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
    headers = dict(example.headers)
    if example.body:
        headers["Content-Type"] = "application/json"
    body = example.body.encode() or None
    connection.request(example.method, replies.real(example.path), body, headers)
    reply = connection.getresponse()
    assert reply.status == example.status, f"{place}: {reply.status} {reply.read().decode()}"
    for name, shown in example.reply_headers.items():
        assert reply.headers[name] == shown, place
    if reply.headers["Content-Type"] == "text/event-stream":
        _check_stream(reply, example, replies, place)
    else:
        text = reply.read().decode()
        assert replies.match(example.reply, text), f"{place}\nshown: {example.reply}\nreal:  {text}"
    connection.close()


def _check_stream(reply: http.client.HTTPResponse, example: Example, replies: Replies, place: str) -> None:
    """A stream may go on for ever: what has come is compared event by event."""
    text = ""
    while line := reply.readline().decode():
        text += line
        if line == "\n" and replies.match(example.reply, text):
            return
    raise AssertionError(f"{place}\nshown: {example.reply}\nreal:  {text}")
