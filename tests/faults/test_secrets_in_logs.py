"""What is secret stands in no line of the log, whatever goes well or wrong, and however much is logged."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from typing import Any

import aiohttp
import psycopg
import pytest

from tests.faults.conftest import Report
from tests.faults.marked import (
    ARGUMENT,
    CONTENT,
    INTERNAL,
    ISSUER_PASSWORD,
    LLM_KEY,
    MARKED,
    PASSWORD,
    Talk,
    go_well,
    go_wrong,
    message,
    prove_wrongly,
    send_what_is_no_http,
    take_turns,
)
from tests.support.model_server import (
    ModelServer,
    Reply,
    calls,
    cut_after,
    html,
    model_server,
    raw,
    says,
    status,
)
from tests.support.server_process import ServerProcess, run_command
from tests.support.token_issuer import JwtIssuer, bearer, claims, jwt_issuer
from tests.support.turn_requests import call

Json = Any

TIMEOUT = aiohttp.ClientTimeout(total=30)
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
async def test_nothing_secret_is_logged(database_url: str, log_format: str, report: Report) -> None:
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
def test_a_refusal_to_start_says_nothing_secret(env: dict[str, str], tmp_path: Any) -> None:
    ended = run_command("serve", env={"LOG_LEVEL": "DEBUG", **env}, cwd=tmp_path)
    assert ended.returncode == 2, ended.stderr
    check(ended.stdout + ended.stderr, MARKED)


@pytest.mark.parametrize("place", ["127.0.0.1:99999", "127.0.0.1:1", "[::1", "issuer.invalid", "%zz"])
async def test_an_issuer_that_cannot_be_asked_is_logged_without_its_password(
    sqlite_url: str, place: str
) -> None:
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
