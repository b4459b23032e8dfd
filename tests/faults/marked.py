"""Requests that have something to hide in every part of them: a mark, for which a log is searched."""

from __future__ import annotations

import asyncio
import io
import json
from contextlib import suppress
from typing import Any

import aiohttp

from tests.support.token_issuer import JwtIssuer, bearer, claims

Json = Any

INTERNAL, LLM_KEY, PASSWORD = "mark-internal-key", "mark-llm-key", "mark-database-password"
ISSUER_PASSWORD = "mark-issuer-password"
CONTENT, ARGUMENT, FIELD, QUERY = "mark-content", "mark-argument", "mark-field", "mark-query"
MARKED = [INTERNAL, LLM_KEY, PASSWORD, ISSUER_PASSWORD, CONTENT, ARGUMENT, FIELD, QUERY]
ALL_FIELDS = {"title": FIELD, "description": FIELD, "metadata": {FIELD: FIELD}}
# A word in a message that lets the database refuse it, in different ways.
POISONS = ("poison-check", "poison-raise", "poison-full", "poison-unique")


class Talk:
    """Asks a server for everything, in every way that goes wrong. Which replies come is not looked at."""

    def __init__(self, http: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> None:
        self._http, self._url, self._headers = http, url, headers
        self.statuses: set[int] = set()

    async def ask(self, method: str, path: str, body: Json = None, **headers: str) -> None:
        sent = {**self._headers, **{name.replace("_", "-"): text for name, text in headers.items()}}
        data = (
            None
            if body is None
            else io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
        )
        kind = {"Content-Type": "application/json"} if data is not None else {}
        with suppress(aiohttp.ClientError):
            async with self._http.request(
                method, self._url + path, data=data, headers={**kind, **sent}
            ) as reply:
                self.statuses.add(reply.status)
                if "/events" not in path or reply.status != 200:
                    await reply.read()

    async def raw(self, *lines: bytes) -> None:
        """Bytes that no client library sends."""
        host, port = self._url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"\r\n".join((*lines, b"", b"")))
        writer.write_eof()
        with suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 10)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def go_well(talk: Talk) -> None:
    """What a client does, with something to hide in every field."""
    await talk.ask("POST", "/sessions", {"session_id": "s", **ALL_FIELDS, "messages": [message()]})
    await talk.ask("PATCH", "/sessions/s", ALL_FIELDS)
    await talk.ask("POST", "/sessions/s/messages", message(), Idempotency_Key="key-1")
    await talk.ask("POST", "/sessions/s/messages", message(), Prefer="respond-async")
    approval = {"call_id": "c", "tool_name": "t", "arguments": {"a": ARGUMENT}, "reason": FIELD}
    await talk.ask("POST", "/sessions/s/approvals", approval)
    verdict = {"decision": "edit", "modified_arguments": {"a": ARGUMENT}, "feedback": FIELD}
    await talk.ask("POST", "/sessions/s/approvals/c/decision", verdict)
    await talk.ask("POST", "/sessions/s/agent", {"agent": "ask", "reason": FIELD, "metadata": {"a": FIELD}})
    await talk.ask("PATCH", "/sessions/s/context", {"metadata": {"a": FIELD}})
    for path in ("", "/messages", "/history", "/events", "/context", "/switches", "/approvals", "/turns"):
        await talk.ask("GET", f"/sessions/s{path}")


def message(more: str = "") -> Json:
    known = {"role": "assistant", "content": f"{CONTENT} {more}", "name": FIELD, "metadata": {"a": FIELD}}
    function = {"name": "t", "arguments": json.dumps({"a": ARGUMENT})}
    return {**known, "tool_calls": [{"id": "c", "type": "function", "function": function}], FIELD: FIELD}


async def go_wrong(talk: Talk) -> None:
    """Bodies, headers and queries that are refused."""
    for body in (
        *(CONTENT.encode(), json.dumps(CONTENT), b'{"' + CONTENT.encode(), b'"\xff' + CONTENT.encode()),
        *([message()], {CONTENT: 1}, {"session_id": CONTENT + "\n"}, {"title": {CONTENT: CONTENT}}),
        *({"messages": [{"role": CONTENT}]}, {"messages": [{"role": "user", "content": {"a": CONTENT}}]}),
        *(
            {"metadata": CONTENT},
            f'{{"title": "{CONTENT} \\ud800"}}'.encode(),
            b"[" * 100_000 + CONTENT.encode(),
        ),
        {"title": CONTENT * 100_000},
    ):
        await talk.ask("POST", "/sessions", body)
        await talk.ask("POST", "/sessions/s/messages", body)
    await talk.ask("POST", "/sessions/s/messages", message("again"), Idempotency_Key="key-1")
    for headers in ({"If_Match": CONTENT}, {"Idempotency_Key": "a b " + CONTENT}, {"Content_Type": CONTENT}):
        await talk.ask("POST", "/sessions/s/messages", message(), **headers)
    for query in (f"access_token={QUERY}", f"cursor={QUERY}", f"limit={QUERY}"):
        await talk.ask("GET", f"/sessions?{query}")
    await talk.ask("GET", "/sessions/s/turns/t/events", Last_Event_ID=CONTENT)
    for word in POISONS:
        await talk.ask("POST", "/sessions/s/messages", message(word))
        if word != "poison-full":
            # A full disk is waited for: nothing behind such a write would come to its turn.
            await talk.ask("POST", "/sessions/s/messages", message(word), Prefer="respond-async")
        await talk.ask("GET", "/sessions/s")


async def send_what_is_no_http(talk: Talk, token: str) -> None:
    """What aiohttp's parser refuses, with a token in it."""
    first, authorization = b"GET /sessions HTTP/1.1", f"Authorization: Bearer {token}".encode()
    for lines in (
        (first, b"Host: x", authorization + b"\x01"),
        (first, b"Host: x", authorization + b"x" * 20_000),
        (first, b"Host: x", authorization.replace(b":", b"")),
        (first, b"Host: x", authorization.replace(b": ", b" : ")),
        (first, b"Host: x", authorization, b"Content-Length: " + CONTENT.encode()),
        (first, b"Host: x", authorization, b"Transfer-Encoding: chunked", b"", CONTENT.encode()),
        (CONTENT.encode() + b" / HTTP/1.1", authorization),
        (f"GET /{CONTENT} HTTP/9.9".encode(), authorization),
        (b"\x16\x03\x01" + CONTENT.encode(), authorization),
    ):
        await talk.raw(*lines)


async def take_turns(talk: Talk) -> None:
    """Turns that end in every way."""
    words = ("", "REFUSE", "BUSY", "BROKEN", "PAGE", "REDIRECT", "GARBAGE", "TYPE", "CUT", "CALL")
    for number, word in enumerate(words):
        said = {"type": "user_message", "content": f"{word} {CONTENT}"}
        await talk.ask("POST", "/agent/message/stream", {"session_id": f"turn-{number}", "message": said})
    for said in (  # type: ignore[assignment]
        {
            "type": "hitl_decision",
            "call_id": "asked",
            "decision": "edit",
            "modified_arguments": {"a": ARGUMENT},
        },
        {"type": "hitl_decision", "call_id": "asked", "decision": "reject", "feedback": FIELD},
        {"type": "tool_result", "call_id": "c", "result": CONTENT},
        {"type": "user_message", "content": "poison-raise " + CONTENT},
        {"type": CONTENT},
    ):
        await talk.ask("POST", "/agent/message/stream", {"session_id": "turn-9", "message": said})


async def prove_wrongly(talk: Talk, issuer: JwtIssuer, token: str) -> list[str]:
    """Tokens, keys and JWTs that are not taken; all that are not to be seen."""
    good = issuer.sign(claims("alice"))
    wrong = [
        *(token[:-8] + "deadbeef", "art_mark-wrong-token_x", f"{token}x", "mark.wrong.jwt"),
        *(issuer.sign(claims(exp=1)), issuer.sign(claims(aud=FIELD)), issuer.sign(claims(), kid="mark-kid")),
        good[:-10] + "mark-wrong",
    ]
    for text in (token, good, *wrong):
        await talk.ask("GET", "/sessions", **bearer(text))
        await talk.ask("GET", "/sessions", Authorization=text)
        await talk.ask("GET", "/sessions", X_Internal_Auth=text)
        await talk.ask("GET", "/sessions", Cookie=f"token={text}")
    return [token, token.rpartition("_")[2], good, *good.split(".")[1:], *wrong]
