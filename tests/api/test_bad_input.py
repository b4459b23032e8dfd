"""What is refused, and that nothing of it is stored: a clear 4xx each, on both databases."""

from __future__ import annotations

import asyncio
import gzip
import logging
from collections.abc import AsyncIterator
from itertools import product

import pytest
from yarl import URL

from tests.support.api_server import BODY_LIMIT, USER, Client, Json, check, check_problem, make, texts

pytestmark = pytest.mark.slow

JSON = {"Content-Type": "application/json"}
MESSAGES = "/sessions/s/messages"

# Every request about a session that does not make it, with a body that would do.
ABOUT_A_SESSION: list[tuple[str, str, Json]] = [
    ("GET", "", None),
    ("PATCH", "", {"title": "t"}),
    ("DELETE", "", None),
    ("GET", "/stats", None),
    ("POST", "/messages", USER),
    ("GET", "/messages", None),
    ("GET", "/messages?page=1", None),
    ("PUT", "/messages", {"messages": [USER]}),
    ("DELETE", "/messages?after=0", None),
    ("GET", "/history", None),
    ("GET", "/events", None),
    ("POST", "/agent", {"agent": "coder"}),
    ("GET", "/switches", None),
    ("GET", "/context", None),
    ("PATCH", "/context", {"metadata": {}}),
    ("POST", "/approvals", {"call_id": "c", "tool_name": "t", "arguments": {}}),
    ("GET", "/pending-approvals", None),
    ("GET", "/approvals", None),
    ("POST", "/approvals/c/decision", {"decision": "approve"}),
    ("DELETE", "/approvals/c", None),
]
# Those that make it where it is missing.
MAKING: list[tuple[str, str, Json]] = [("PUT", "", {}), ("POST", "", [USER])]
# Every place that takes messages: the method, the path, and how a message stands in the body.
TAKES_MESSAGES = [
    pytest.param("POST", MESSAGES, "%s", "$", id="append one"),
    pytest.param("POST", MESSAGES, '{"messages": [{"role": "user"}, %s]}', "$.messages[1]", id="append"),
    pytest.param("PUT", MESSAGES, '{"messages": [{"role": "user"}, %s]}', "$.messages[1]", id="replace"),
    pytest.param("POST", "/sessions/s", '[{"role": "user"}, %s]', "$[1]", id="save a list"),
    pytest.param("POST", "/sessions/s", '{"messages": [%s]}', "$.messages[0]", id="save"),
    pytest.param("POST", "/sessions", '{"session_id": "t", "messages": [%s]}', "$.messages[0]", id="create"),
    pytest.param("PUT", "/sessions/t", '{"messages": [%s]}', "$.messages[0]", id="ensure"),
]
BAD_MESSAGES = [
    ("{}", ".role"),
    ('{"content": "x"}', ".role"),
    ('{"role": "robot"}', ".role"),
    ('{"role": null}', ".role"),
    ('{"role": "user", "content": 1}', ".content"),
    ('{"role": "user", "content": {}}', ".content"),
    ('{"role": "user", "name": 1}', ".name"),
    ('{"role": "user", "tool_calls": {}}', ".tool_calls"),
    ('{"role": "user", "token_count": -1}', ".token_count"),
    ('{"role": "user", "token_count": 1e20}', ".token_count"),
    ('{"role": "user", "metadata": []}', ".metadata"),
    ('{"role": "user", "timestamp": "yesterday"}', ".timestamp"),
    ('{"role": "user", "timestamp": "2024-05-15T20:00:00"}', ".timestamp"),
    ('{"role": "user", "content": "\\ud800"}', ".content"),
    ('{"role": "user", "content": [{"text": "\\udfffx"}]}', ".content[0].text"),
    ('{"role": "user", "a": {"\\ud800": 1}}', ".a"),
    ('"text"', ""),
    ("[]", ""),
    ("null", ""),
]


async def assert_untouched(client: Client) -> None:
    """Nothing of what was refused is stored: the session is as it was made, and there is no other."""
    page = await check(await client.get("/sessions?include_deleted=true"))
    assert [(session["session_id"], session["version"]) for session in page["sessions"]] == [("s", 1)]
    assert await texts(client) == []


@pytest.mark.parametrize(("method", "path", "frame", "root"), TAKES_MESSAGES)
async def test_bad_messages(client: Client, method: str, path: str, frame: str, root: str) -> None:
    await make(client)
    for message, place in BAD_MESSAGES:
        response = await client.request(method, path, data=frame % message, headers=JSON)
        await check_problem(response, 422, "invalid_input", root + place)
    await assert_untouched(client)


BAD_BODIES: list[tuple[bytes, int, str, str | None]] = [
    (b"{", 400, "invalid_json", None),
    (b"", 400, "invalid_json", None),
    (b"{'role': 'user'}", 400, "invalid_json", None),
    (b'{"role": "user",}', 400, "invalid_json", None),
    (b'{"role": "user", "content": "\xff"}', 400, "invalid_json", None),
    (b'{"role": "user", "content": [NaN]}', 400, "invalid_json", None),
    (b'{"role": "user", "content": [-Infinity]}', 400, "invalid_json", None),
    (b'{"role": "user", "a": %s}' % (b"1" * 5000), 422, "invalid_input", "$.a"),
    (
        b'{"messages": [{"role": "user"}, {"content": [1, -%s]}]}' % (b"1" * 4300),
        422,
        "invalid_input",
        "$.messages[1].content[1]",
    ),
    (b'{"role": "user", "token_count": 1.5}', 422, "invalid_input", "$.token_count"),
    (b'{"role": "user", "token_count": 1e400}', 422, "invalid_input", "$.token_count"),
    (b'{"role": "robot", "a": [1, 2}', 400, "invalid_json", None),
    (b'{"role": "robot", "a": "\xff"}', 400, "invalid_json", None),
    (b'{"role": "user", "a": %s}' % (b"[" * 45_000 + b"]" * 45_000), 422, "invalid_input", "$"),
    (b"[" * 100_000, 422, "invalid_input", "$"),
    (b'{"role": "user", "a": %s}' % (b"[" * 800 + b"]" * 800), 422, "invalid_input", "$"),
    (b'{"role": "user", "a": %s}' % (b'{"a":' * 800 + b"1" + b"}" * 800), 422, "invalid_input", "$"),
    (b"\xef\xbb\xbf{}", 400, "invalid_json", None),
    (b'{"messages": [], "mesages": []}', 422, "invalid_input", "$.mesages"),
    (b'{"messages": null}', 422, "invalid_input", "$.messages"),
    (b'{"messages": {}}', 422, "invalid_input", "$.messages"),
    (b" " * (BODY_LIMIT + 1), 413, "body_too_large", None),
]


async def test_bad_bodies(client: Client) -> None:
    await make(client)
    for body, status, code, path in BAD_BODIES:
        await check_problem(await client.post(MESSAGES, data=body, headers=JSON), status, code, path)
    await assert_untouched(client)


async def test_a_body_too_large_that_does_not_say_so(client: Client) -> None:
    await make(client)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(BODY_LIMIT // 10_000 + 1):
            yield b" " * 10_000

    response = await client.post(MESSAGES, data=chunks(), headers=JSON)
    await check_problem(response, 413, "body_too_large")
    await assert_untouched(client)


async def test_content_types(client: Client) -> None:
    await make(client)
    wrong = ("text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1", "x", "")
    for content_type in wrong:
        headers = {"Content-Type": content_type}
        response = await client.post(MESSAGES, data=b'{"role": "user"}', headers=headers)
        await check_problem(response, 415, "unsupported_media_type")
    await assert_untouched(client)
    for content_type in (
        "application/json;charset=UTF-8",
        "Application/JSON",
        'application/json; charset="utf8"',
    ):
        headers = {"Content-Type": content_type}
        await check(await client.post(MESSAGES, data=b'{"role": "user"}', headers=headers), 201)


async def test_a_body_that_is_compressed(client: Client) -> None:
    await make(client)
    headers = {**JSON, "Content-Encoding": "gzip"}
    packed = gzip.compress(b'{"role": "user"}')
    for body in (b'{"role": "user"}', packed):
        response = await client.post(MESSAGES, data=body, headers=headers)
        await check_problem(response, 415, "unsupported_media_type")
    await assert_untouched(client)


BAD_SESSIONS: list[tuple[Json, str]] = [
    ({"session_id": ""}, "$.session_id"),
    ({"session_id": "x" * 256}, "$.session_id"),
    ({"session_id": "a\x00b"}, "$.session_id"),
    ({"session_id": "a\n"}, "$.session_id"),
    ({"session_id": "a\x7f"}, "$.session_id"),
    ({"session_id": "a\x85"}, "$.session_id"),
    ({"session_id": 1}, "$.session_id"),
    ({"title": 1}, "$.title"),
    ({"description": []}, "$.description"),
    ({"metadata": "x"}, "$.metadata"),
    ({"agent": ""}, "$.agent"),
    ({"messages": {}}, "$.messages"),
    ({"tilte": "x"}, "$.tilte"),
    ([], "$"),
    ("x", "$"),
]


async def test_bad_sessions(client: Client) -> None:
    await make(client)
    for body, path in BAD_SESSIONS:
        await check_problem(await client.post("/sessions", json=body), 422, "invalid_input", path)
    await assert_untouched(client)


BAD_CHANGES: list[tuple[Json, str]] = [
    ({"title": 1}, "$.title"),
    ({"is_active": "yes"}, "$.is_active"),
    ({"is_active": None}, "$.is_active"),
    ({"metadata": []}, "$.metadata"),
    ({"session_id": "t"}, "$.session_id"),
]


async def test_bad_changes(client: Client) -> None:
    await make(client)
    for body, path in BAD_CHANGES:
        await check_problem(await client.patch("/sessions/s", json=body), 422, "invalid_input", path)
    await assert_untouched(client)


BAD_CLEANUPS: list[tuple[Json, str]] = [
    ({"max_age_hours": -1}, "$.max_age_hours"),
    ({"max_age_hours": 1e300}, "$.max_age_hours"),
    ({"hard_delete_after_days": "x"}, "$.hard_delete_after_days"),
    ({"max_age": 1}, "$.max_age"),
]


async def test_bad_cleanups(client: Client) -> None:
    await make(client)
    for body, path in BAD_CLEANUPS:
        await check_problem(await client.post("/maintenance/cleanup", json=body), 422, "invalid_input", path)
    await assert_untouched(client)


BAD_IDS = ["%00", "a%0A", "%7F", "%C2%85", "x" * 256, "%C3%A9" * 256, "%FF", "%ED%A0%80", "%zz", "a%"]


async def test_bad_ids(client: Client) -> None:
    for escaped, (method, rest, body) in product(BAD_IDS, [*ABOUT_A_SESSION, *MAKING]):
        url = URL(f"{client.make_url('/sessions')}/{escaped}{rest}", encoded=True)
        response = await client.session.request(method, url, json=body)
        await check_problem(response, 422, "invalid_input", "session_id")
    assert (await check(await client.get("/sessions?include_deleted=true")))["sessions"] == []


async def test_bad_call_ids(client: Client) -> None:
    await make(client)
    for escaped in BAD_IDS:
        url = URL(f"{client.make_url('/sessions/s/approvals')}/{escaped}", encoded=True)
        await check_problem(await client.session.delete(url), 422, "invalid_input", "call_id")


BAD_QUERIES = [
    ("/sessions?limit=0", "?limit"),
    ("/sessions?limit=1001", "?limit"),
    ("/sessions?limit=x", "?limit"),
    ("/sessions?limit=", "?limit"),
    ("/sessions?cursor=x", "?cursor"),
    ("/sessions?cursor=%00", "?cursor"),
    ("/sessions?count=maybe", "?count"),
    (MESSAGES + "?limit=0", "?limit"),
    (MESSAGES + "?after=-1", "?after"),
    (MESSAGES + "?after=" + "9" * 19, "?after"),
    (MESSAGES + "?before=x", "?before"),
    (MESSAGES + "?last=0", "?last"),
    (MESSAGES + "?page=0", "?page"),
    (MESSAGES + "?page=1&page_size=1001", "?page_size"),
    (MESSAGES + "?after=1&page_size=3", "?page_size"),
    (MESSAGES + "?last=1&page=1", "?page"),
    (MESSAGES + "?role=robot", "?role"),
    (MESSAGES + "?role=null", "?role"),
    (MESSAGES + "?after=NULL", "?after"),
    (MESSAGES + "?after=1&after=2", "?after"),
    ("/sessions?count=true&count=true", "?count"),
    ("/sessions/s/switches?limit=1001", "?limit"),
    ("/sessions/s/switches?before=-1", "?before"),
    ("/sessions/s/events?after=x", "?after"),
]


async def test_bad_queries(client: Client) -> None:
    await make(client)
    for path, place in BAD_QUERIES:
        await check_problem(await client.get(path), 422, "invalid_input", place)


async def test_an_unknown_session(client: Client) -> None:
    for method, rest, body in ABOUT_A_SESSION:
        response = await client.request(method, f"/sessions/unknown{rest}", json=body)
        await check_problem(response, 404, "session_not_found")


async def test_a_deleted_session(client: Client) -> None:
    await make(client)
    await check(await client.delete("/sessions/s"), 204)
    for method, rest, body in [*ABOUT_A_SESSION, *MAKING]:
        response = await client.request(method, f"/sessions/s{rest}", json=body)
        await check_problem(response, 404, "session_not_found")


async def test_an_unknown_session_elsewhere(client: Client) -> None:
    for path in ("/history/unknown", "/agents/unknown/current"):
        await check_problem(await client.get(path), 404, "session_not_found")


async def test_a_refused_batch_leaves_its_neighbours(client: Client) -> None:
    await make(client)
    bad = await client.post(MESSAGES, json={"messages": [USER, {"role": "robot"}, USER]})
    await check_problem(bad, 422, "invalid_input", "$.messages[1].role")
    await check(await client.post(MESSAGES, json=USER), 201)
    assert await texts(client) == ["hello"]


async def test_a_sender_that_goes_away(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """W10: what was not sent whole is not stored, and nobody has failed."""
    await make(client)
    head = f"POST {MESSAGES} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    for rest in ("Content-Length: 100\r\n\r\n{", "Transfer-Encoding: chunked\r\n\r\n5\r\n{"):
        _, writer = await asyncio.open_connection(client.host, client.port)
        writer.write((head + rest).encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    await assert_untouched(client)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
