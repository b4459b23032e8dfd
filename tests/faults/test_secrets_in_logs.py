"""What is secret stands in no line of the log, whatever goes well or wrong, and however much is logged."""

from __future__ import annotations

import asyncio
import io
import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from typing import Any

import aiohttp
import psycopg
import pytest

from tests.access_server import JwtIssuer, bearer, claims, jwt_issuer
from tests.api.asking import call
from tests.faults.conftest import Report
from tests.model_server import ModelServer, Reply, calls, cut_after, html, model_server, raw, says, status
from tests.server_process import ServerProcess, run_command

Json = Any

INTERNAL, LLM_KEY, PASSWORD = "mark-internal-key", "mark-llm-key", "mark-database-password"
ISSUER_PASSWORD = "mark-issuer-password"
CONTENT, ARGUMENT, FIELD, QUERY = "mark-content", "mark-argument", "mark-field", "mark-query"
MARKED = [INTERNAL, LLM_KEY, PASSWORD, ISSUER_PASSWORD, CONTENT, ARGUMENT, FIELD, QUERY]
ALL_FIELDS = {"title": FIELD, "description": FIELD, "metadata": {FIELD: FIELD}}
TIMEOUT = aiohttp.ClientTimeout(total=30)
# A word in a message that lets the database refuse it, in different ways.
POISONS = ("poison-check", "poison-raise", "poison-full", "poison-unique")

POSTGRES_POISON = """
    ALTER TABLE messages ADD CONSTRAINT poisoned CHECK (content::text NOT LIKE '%poison-check%');
    CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.content::text LIKE '%poison-raise%' THEN
            RAISE EXCEPTION 'no: %', NEW.content USING DETAIL = NEW.content, HINT = NEW.content;
        ELSIF NEW.content::text LIKE '%poison-full%' THEN
            RAISE EXCEPTION 'full' USING ERRCODE = '53100', DETAIL = NEW.content, HINT = NEW.content;
        ELSIF NEW.content::text LIKE '%poison-unique%' THEN
            RAISE EXCEPTION 'twice: %', NEW.content USING ERRCODE = '23505', DETAIL = NEW.content;
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER poison BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION poison();
"""
SQLITE_POISON = """
    CREATE TRIGGER poison BEFORE INSERT ON messages WHEN NEW.content LIKE '%poison%'
    BEGIN SELECT RAISE(ABORT, 'poison'); END;
"""


def poison(url: str) -> None:
    """Let the database refuse some messages, and say their contents where it can."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.executescript(SQLITE_POISON)
        return
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(POSTGRES_POISON)  # type: ignore[call-overload]


def answers(body: Json) -> Reply:
    """A model that fails in each way, and repeats what it was told wherever it can."""
    said = json.dumps(body["messages"][-1])
    heard = f"{LLM_KEY} {said}"
    for word, reply in (
        ("REFUSE", status(400, heard)),
        ("BUSY", status(429, heard, retry_after="0")),
        ("BROKEN", status(500, heard, **{"X-Heard": "x"})),
        ("PAGE", html(502, f"<html>{heard}</html>")),
        ("REDIRECT", Reply([b""], 307, {"Location": f"/{LLM_KEY}"})),
        ("GARBAGE", raw(f"data: {{{heard}\n\n".encode())),
        ("TYPE", raw(heard.encode(), content_type="text/plain; heard=mark-content")),
        ("CUT", cut_after(CONTENT)),
        ("CALL", calls(call("asked", "write_file", path="a.md", content=ARGUMENT), call(ARGUMENT, ARGUMENT))),
    ):
        if word in said:
            return reply
    return says(CONTENT)


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
    for said in (
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


@asynccontextmanager
async def served(env: dict[str, str]) -> AsyncIterator[ServerProcess]:
    with ServerProcess(env) as server:
        await asyncio.to_thread(server.wait_until_listening)
        yield server
        assert server.stop() == 0


def settings(url: str, model: ModelServer, issuer: JwtIssuer) -> dict[str, str]:
    if url.startswith("postgres"):
        url = url.replace("postgres:@", f"postgres:{PASSWORD}@") + f"&password={PASSWORD}"
    return {
        "DB_URL": url,
        "LLM_URL": model.url,
        "LLM_API_KEY": LLM_KEY,
        "LLM_RETRIES": "1",
        "INTERNAL_API_KEY": INTERNAL,
        **{name.upper(): text for name, text in issuer.settings().items()},
        "AUTH_JWKS_URL": issuer.url.replace("//", f"//user:{ISSUER_PASSWORD}@"),
        "LOG_LEVEL": "DEBUG",
        "SLOW_QUERY_MS": "0",
        "FLUSH_INTERVAL": "0.05",
        "WRITE_TIMEOUT": "1",
        "MAX_BODY_BYTES": "500000",
    }


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_nothing_secret_is_logged(database_url: str, log_format: str, report: Report):
    made = run_command("token", "create", "--name", "ci", "--owner", "alice", env={"DB_URL": database_url})
    token = made.stdout.splitlines()[-1]
    poison(database_url)
    async with model_server(answers) as model, jwt_issuer() as issuer:
        env = {**settings(database_url, model, issuer), "LOG_FORMAT": log_format}
        async with served(env) as server, aiohttp.ClientSession(timeout=TIMEOUT) as http:
            talk = Talk(http, server.url, bearer(token))
            issuer.status = 500
            hidden = await prove_wrongly(Talk(http, server.url, {}), issuer, token)
            await go_well(talk)
            await go_wrong(talk)
            await send_what_is_no_http(talk, token)
            await take_turns(talk)
            await outage(database_url, talk)
        log = server.log
    assert {200, 201, 202, 400, 404, 413, 422, 503} <= talk.statuses
    assert made.stderr == ""
    check(log, [*MARKED, *hidden])
    report(lines=log.count("\n"))


async def outage(url: str, talk: Talk) -> None:
    """The database is away for a while, and what is said of that is logged."""
    for _ in range(2):
        with held(url):
            await talk.ask("POST", "/sessions/s/messages", message())
            await talk.ask("POST", "/sessions/s/messages", message(), Prefer="respond-async")
    await talk.ask("GET", "/sessions/s")


TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name ~ '^agent-runtime'"


@contextmanager
def held(url: str) -> Iterator[None]:
    """Nobody else can write meanwhile; on Postgres all connections break at the end."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
        return
    with psycopg.connect(url) as connection:
        connection.execute("LOCK TABLE sessions IN EXCLUSIVE MODE")
        yield
        connection.execute(TERMINATE)


def check(log: str, hidden: list[str]) -> None:
    """Fail with every line that has something to hide."""
    found = {line for line in log.splitlines() for text in hidden if text in line}
    assert not found, f"{len(found)} lines:\n" + "\n".join(sorted(line[-600:] for line in found))


# Settings with which it does not start, with something to hide.
REFUSED = [
    {"DB_URL": f"postgresql://me:{PASSWORD}@127.0.0.1:1/db"},
    {"DB_URL": f"postgresql://127.0.0.1:1/db?user=me&password={PASSWORD}"},
    {"DB_URL": f"mysql://me:{PASSWORD}@127.0.0.1/db"},
    {"INTERNAL_API_KEY": f"{INTERNAL} with a blank"},
    {"LLM_API_KEY": f"{LLM_KEY} with a blank"},
    {"LLM_API_KEY": LLM_KEY, "LLM_URL": f"https://me:{PASSWORD}@model.example"},
    {"LLM_URL": f"ftp://me:{PASSWORD}@model.example"},
    {"AUTH_JWKS_URL": f"https://me:{ISSUER_PASSWORD}@issuer.example/keys"},
    {"AUTH_JWKS_URL": f"ftp://me:{ISSUER_PASSWORD}@issuer.example/keys"},
]


@pytest.mark.parametrize("env", REFUSED, ids="-".join)
def test_a_refusal_to_start_says_nothing_secret(env: dict[str, str], tmp_path: Any):
    ended = run_command("serve", env={"LOG_LEVEL": "DEBUG", **env}, cwd=tmp_path)
    assert ended.returncode == 2, ended.stderr
    check(ended.stdout + ended.stderr, MARKED)


@pytest.mark.parametrize("place", ["127.0.0.1:99999", "127.0.0.1:1", "[::1", "issuer.invalid", "%zz"])
async def test_an_issuer_that_cannot_be_asked_is_logged_without_its_password(sqlite_url: str, place: str):
    env = {
        "DB_URL": sqlite_url,
        "AUTH_JWKS_URL": f"http://me:{ISSUER_PASSWORD}@{place}/keys?password={ISSUER_PASSWORD}",
        "AUTH_ISSUER": "i",
        "AUTH_AUDIENCE": "a",
        "LOG_LEVEL": "DEBUG",
    }
    with ServerProcess(env) as server:
        await asyncio.to_thread(server.wait_until_listening)
        async with aiohttp.ClientSession(timeout=TIMEOUT) as http, jwt_issuer() as issuer:
            token = issuer.sign(claims())
            async with http.get(server.url + "/sessions", headers=bearer(token)) as reply:
                assert reply.status == 503, await reply.text()
        server.stop()
        check(server.log, [ISSUER_PASSWORD, token])
