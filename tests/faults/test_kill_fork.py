"""`kill -9` while a long session is copied: the fork is there whole, or nothing of it is left."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from pathlib import Path
from typing import Any

from tests.migrations.catalogue import query
from tests.support.long_sessions import make_session
from tests.support.server_process import ServerProcess, start_server

LENGTH = 60_000
PATIENCE = 120.0


def ask(server: ServerProcess, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=PATIENCE)
    headers = {"Content-Type": "application/json", "Idempotency-Key": "k"} if method == "POST" else {}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    reply = connection.getresponse()
    text = reply.read()
    connection.close()
    return reply.status, json.loads(text)


def fork(server: ServerProcess) -> None:
    """Ask for a fork; the server dies while it is made."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        ask(server, "POST", "/sessions/s/fork", {"session_id": "f"})


def wait_for(url: str, sql: str) -> None:
    """Wait until a query counts something."""
    end = time.monotonic() + PATIENCE
    while not query(url, sql)[0][0]:
        assert time.monotonic() < end, f"{sql} stays 0"
        time.sleep(0.005)


async def test_a_fork_whose_process_is_killed_is_erased_and_made_again(
    database_url: str, tmp_path: Path
) -> None:
    await make_session(database_url, "s", LENGTH)
    env = {"DB_URL": database_url}
    with start_server(env, tmp_path) as server:
        forking = threading.Thread(target=fork, args=(server,))
        forking.start()
        # Some portions are copied, and more are to come.
        wait_for(database_url, "SELECT count(*) FROM messages WHERE session_db_id <> 1")
        server.kill()
        forking.join(PATIENCE)
    copied = query(database_url, "SELECT count(*) FROM messages WHERE session_db_id <> 1")[0][0]
    assert 0 < copied < LENGTH, "it was killed in the middle"
    assert query(database_url, "SELECT count(*) FROM sessions WHERE owner IS NOT NULL") == [(1,)]
    with start_server(env, tmp_path) as server:
        assert ask(server, "GET", "/sessions/f")[0] == 404
        wait_for(database_url, "SELECT count(*) = 0 FROM unfinished_forks")
        wait_for(database_url, "SELECT count(*) = 1 FROM sessions")
        assert query(database_url, "SELECT count(*) FROM messages") == [(LENGTH,)]
        status, made = ask(server, "POST", "/sessions/s/fork", {"session_id": "f"})
        assert (status, made["message_count"], made["last_seq"]) == (201, LENGTH, LENGTH)
        assert server.stop() == 0
    assert query(database_url, "SELECT count(*) FROM messages") == [(2 * LENGTH,)]
