"""`agent-runtime token`, and who may come in, as an operator meets them: real processes."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, suppress

import pytest

from tests.process.http_client import HttpClient, http_client
from tests.support.server_process import run_command, start_server
from tests.support.token_issuer import bearer

TEXT = re.compile(r"art_([0-9a-f]{12})_[0-9a-f]{64}")
PATIENCE = 20.0


def token_command(url: str, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    ended = run_command("token", *arguments, env={"DB_URL": url})
    assert ended.returncode == status, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended


def create(url: str, *arguments: str, name: str = "test") -> str:
    """The text of a new token."""
    return token_command(url, "create", "--name", name, *arguments).stdout.splitlines()[-1]


def status_of(url: str, headers: dict[str, str], path: str = "/sessions") -> int:
    request = urllib.request.Request(url + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_the_token_stands_alone_on_the_last_line_and_nowhere_else(database_url: str) -> None:
    made = token_command(database_url, "create", "--name", "ci", "--owner", "alice", "--scope", "read")
    text = made.stdout.splitlines()[-1]
    found = TEXT.fullmatch(text)
    assert found
    assert made.stdout.count(text) == 1
    assert made.stderr == ""
    listed = token_command(database_url, "list").stdout
    [_, row] = listed.splitlines()
    for word in (found[1], "ci", "alice", "read", "never", "valid"):
        assert word in row.split()
    assert text.rpartition("_")[2] not in listed


def test_what_a_token_may_be_is_said(sqlite_url: str) -> None:
    create(sqlite_url, "--scope", "admin", "--expires", "90d", name="a")
    create(sqlite_url, "--expires", "1s", name="b")
    create(sqlite_url, name="c")
    token_command(sqlite_url, "revoke", "--name", "c")
    deadline = time.monotonic() + PATIENCE
    while "expired" not in (listed := token_command(sqlite_url, "list").stdout):
        assert time.monotonic() < deadline
    rows = {row.split()[1]: row.split() for row in listed.splitlines()[1:]}
    assert (rows["a"][-1], rows["b"][-1], rows["c"][-1]) == ("valid", "expired", "revoked")
    assert "admin" in rows["a"]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("create",),
        ("create", "--name", "x", "--scope", "root"),
        *(
            ("create", "--name", "x", "--expires", lifetime)
            for lifetime in ("0d", "-1d", "1y", "d", "1.5d", "")
        ),
        ("create", "--name", "x", "--expires", "999999999w"),
        ("revoke",),
        ("revoke", "a", "--name", "b"),
        ("sing",),
    ],
)
def test_wrong_arguments_are_refused(sqlite_url: str, arguments: tuple[str, ...]) -> None:
    assert "error:" in token_command(sqlite_url, *arguments, status=2).stderr
    assert len(token_command(sqlite_url, "list").stdout.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "--name", ""),
        ("create", "--name", "a\nb"),
        ("create", "--name", "x" * 256),
        ("create", "--name", "x", "--owner", "\x1b[31m"),
        ("create", "--name", "x", "--expires", "99999999d"),
        ("revoke", "nobody"),
        ("revoke", ""),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(sqlite_url: str, arguments: tuple[str, ...]) -> None:
    [line] = token_command(sqlite_url, *arguments, status=1).stderr.splitlines()
    assert line.startswith("agent-runtime: ")


def test_an_ambiguous_name_revokes_nothing(sqlite_url: str) -> None:
    texts = [create(sqlite_url), create(sqlite_url)]
    said = token_command(sqlite_url, "revoke", "test", status=1).stderr
    assert all(text.split("_")[1] in said for text in texts)
    assert token_command(sqlite_url, "list").stdout.count("valid") == 2
    token_command(sqlite_url, "revoke", texts[0])
    token_command(sqlite_url, "revoke", "test")
    assert token_command(sqlite_url, "list").stdout.count("revoked") == 2


def test_revoked_on_every_instance_with_the_next_request(postgres_url: str) -> None:
    texts = [create(postgres_url, name=f"test {n}") for n in range(3)]
    with ExitStack() as stack:
        env = {"DB_URL": postgres_url, "POOL_MIN": "1", "POOL_MAX": "2"}
        servers = [stack.enter_context(start_server(env)) for _ in range(3)]
        for text in texts:
            assert [status_of(server.url, bearer(text)) for server in servers] == [200] * 3
            token_command(postgres_url, "revoke", text)
            assert [status_of(server.url, bearer(text)) for server in servers] == [401] * 3


async def test_a_token_is_revoked_beside_the_owner_of_a_busy_file(sqlite_url: str) -> None:
    text = create(sqlite_url, "--owner", "alice", name="load")
    with start_server({"DB_URL": sqlite_url}) as server:
        async with http_client(server.url) as client:
            client._http.headers.update(bearer(text))
            await client.post("/sessions", {"session_id": "s"})
            stop = asyncio.Event()
            load = [asyncio.create_task(append(client, n, stop)) for n in range(8)]
            for n in range(4):
                other = await asyncio.to_thread(create, sqlite_url, name=f"other {n}")
                assert await asyncio.to_thread(status_of, server.url, bearer(other)) == 200
                await asyncio.to_thread(token_command, sqlite_url, "revoke", f"other {n}")
                assert await asyncio.to_thread(status_of, server.url, bearer(other)) == 401
            stop.set()
            sent = sorted(content for each in await asyncio.gather(*load) for content in each)
            stored = await client.read_forward("s", 1000)
        assert sorted(message["content"] for message in stored) == sent
        assert len(sent) > 20
        assert server.stop() == 0
        assert "could not" not in server.log
    assert run_command("check", env={"DB_URL": sqlite_url}).returncode == 0


async def append(client: HttpClient, name: int, stop: asyncio.Event) -> list[str]:
    """Append until told to stop; what was acknowledged. Any refusal is an error."""
    contents: list[str] = []
    while not stop.is_set():
        content = f"{name}-{len(contents)}"
        await client.post("/sessions/s/messages", {"role": "user", "content": content})
        contents.append(content)
    return contents


def test_the_command_needs_no_server_and_makes_the_database(empty_sqlite_url: str) -> None:
    text = create(empty_sqlite_url)
    with start_server({"DB_URL": empty_sqlite_url, "HOST": "0.0.0.0"}) as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        assert (status_of(url, {}), status_of(url, bearer(text))) == (401, 200)


# Safe by default


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_on_loopback_it_is_open_and_says_so(sqlite_url: str, host: str) -> None:
    with start_server({"DB_URL": sqlite_url, "HOST": host}) as server:
        assert "WARNING agent_runtime.access: open: " in server.log
        assert "token create" in server.log
        assert status_of(server.url, {}) == 200


def own_addresses() -> list[str]:
    """Addresses by which other machines reach this one, as far as they can be found out."""
    found = set()
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Nothing is sent: this only asks which address would be.
        probe.connect(("192.0.2.1", 9))
        found.add(probe.getsockname()[0])
    with suppress(OSError):
        found.update(info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET))
    return sorted(address for address in found if not address.startswith("127."))


REACHABLE = ["0.0.0.0", "::", "0", *own_addresses()]


@pytest.mark.parametrize("host", REACHABLE)
def test_where_others_reach_it_it_does_not_start_open(sqlite_url: str, host: str) -> None:
    port = free_port()
    ended = run_command("serve", env={"DB_URL": sqlite_url, "HOST": host, "PORT": str(port)})
    assert ended.returncode == 2, ended.stderr
    assert "listening" not in ended.stderr
    *_, line = ended.stderr.splitlines()
    for word in (repr(host), "token create --name", "INTERNAL_API_KEY", "AUTH_JWKS_URL", "127.0.0.1"):
        assert word in line


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


JWKS = {
    "AUTH_JWKS_URL": "http://127.0.0.1:9/keys",
    "AUTH_ISSUER": "https://issuer.example",
    "AUTH_AUDIENCE": "agent-runtime",
}


@pytest.mark.parametrize("proof", [{"INTERNAL_API_KEY": "internal"}, JWKS], ids=["key", "issuer"])
def test_with_authentication_it_starts_and_demands_it(sqlite_url: str, proof: dict[str, str]) -> None:
    with start_server({"DB_URL": sqlite_url, "HOST": "0.0.0.0", **proof}) as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        assert "open:" not in server.log
        assert status_of(url, {}) == 401
        assert status_of(url, {"X-Internal-Auth": "internal"}) == (200 if "AUTH_ISSUER" not in proof else 401)
        assert status_of(url, {}, "/health") == 200
        assert "internal" not in server.log.replace("internal_error", "")


@pytest.mark.parametrize("missing", JWKS)
def test_a_part_of_the_issuer_refuses_to_start(sqlite_url: str, missing: str) -> None:
    env = {name: text for name, text in JWKS.items() if name != missing}
    ended = run_command("serve", env={"DB_URL": sqlite_url, **env})
    assert ended.returncode == 2
    assert f"AGENT_RUNTIME__{missing}" in ended.stderr


def test_an_open_server_closes_and_stays_closed(database_url: str) -> None:
    env = {"DB_URL": database_url}
    with start_server(env) as server:
        assert status_of(server.url, {}) == 200
        text = create(database_url)
        server.wait_for("closed: a token was made")
        assert (status_of(server.url, {}), status_of(server.url, bearer(text))) == (401, 200)
        token_command(database_url, "revoke", text)
        assert (status_of(server.url, {}), status_of(server.url, bearer(text))) == (401, 401)
    with start_server(env) as server:
        assert status_of(server.url, {}) == 401
    # It demands a token, though none is left that is valid: nobody comes in, on any address.
    with start_server({**env, "HOST": "0.0.0.0"}) as server:
        assert status_of(server.url.replace("0.0.0.0", "127.0.0.1"), {}) == 401


def test_a_page_of_another_site_is_refused_on_an_open_server(sqlite_url: str) -> None:
    with start_server({"DB_URL": sqlite_url}) as server:
        assert status_of(server.url, {"Sec-Fetch-Site": "cross-site"}) == 403
        assert status_of(server.url, {"Host": "evil.example"}) == 403


def test_json_logs_say_as_well_that_it_is_open(sqlite_url: str) -> None:
    with start_server({"DB_URL": sqlite_url, "LOG_FORMAT": "json"}) as server:
        lines = [json.loads(line) for line in server.log.splitlines()]
        assert any(line["message"].startswith("open: ") for line in lines)
