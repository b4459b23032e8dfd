"""What the headers of a request ask for, on both databases."""

from __future__ import annotations

import pytest

from tests.support.api_server import ANSWER, USER, Client, append, check, check_problem, make, serving, texts

pytestmark = pytest.mark.slow

MESSAGES = "/sessions/s/messages"


async def test_a_repeat_under_a_key_answers_the_same(client: Client) -> None:
    await make(client)
    key = {"Idempotency-Key": "k1"}
    first = await client.post(MESSAGES, json=USER, headers=key)
    body = await check(first, 201)
    assert "Idempotent-Replayed" not in first.headers
    again = await client.post(MESSAGES, json=USER, headers=key)
    assert await check(again, 201) == body
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["ETag"] == first.headers["ETag"]
    assert await texts(client) == ["hello"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/sessions", {"title": "t"}, 201),
        ("POST", "/sessions", {"session_id": "other"}, 201),
        ("PUT", "/sessions/other", None, 201),
        ("PATCH", "/sessions/s", {"title": "t"}, 200),
        ("DELETE", "/sessions/s", None, 204),
        ("DELETE", "/sessions/s?hard=true", None, 204),
        ("PUT", MESSAGES, {"messages": [USER]}, 200),
        ("DELETE", MESSAGES + "?after=0", None, 200),
        ("POST", "/sessions/s", [USER], 200),
        ("POST", "/sessions/s/agent", {"agent": "ask"}, 200),
        ("PATCH", "/sessions/s/context", {"metadata": {"a": 1}}, 200),
        ("POST", "/sessions/s/approvals", {"call_id": "c", "tool_name": "t", "arguments": {}}, 201),
        ("POST", "/sessions/s/approvals/c0/decision", {"decision": "approve"}, 200),
        ("DELETE", "/sessions/s/approvals/c0", None, 204),
    ],
)
async def test_every_write_takes_a_key(
    client: Client, method: str, path: str, body: object, status: int
) -> None:
    await make(client)
    await append(client, USER, USER)
    approval = {"call_id": "c0", "tool_name": "t", "arguments": {}}
    await check(await client.post("/sessions/s/approvals", json=approval), 201)
    key = {"Idempotency-Key": "k"}
    first = await client.request(method, path, json=body, headers=key)
    answered = await check(first, status)
    again = await client.request(method, path, json=body, headers=key)
    assert await check(again, status) == answered
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers.get("Location") == first.headers.get("Location")


async def test_a_key_for_another_request(client: Client) -> None:
    await make(client)
    key = {"Idempotency-Key": "k"}
    await check(await client.post(MESSAGES, json=USER, headers=key), 201)
    other = await client.post(MESSAGES, json={**USER, "content": "other"}, headers=key)
    await check_problem(other, 422, "idempotency_key_reused")
    assert await texts(client) == ["hello"]


async def test_bad_keys(client: Client) -> None:
    await make(client)
    for key in ("", "a b", "x" * 256, "ü"):
        response = await client.post(MESSAGES, json=USER, headers={"Idempotency-Key": key})
        await check_problem(response, 422, "invalid_input", "Idempotency-Key")
    assert await texts(client) == []


async def test_a_stale_version(client: Client) -> None:
    await make(client)
    await check(await client.post(MESSAGES, json=USER, headers={"If-Match": '"1"'}), 201)
    stale = await client.post(MESSAGES, json=USER, headers={"If-Match": '"1"'})
    await check_problem(stale, 412, "version_mismatch")
    assert stale.headers["ETag"] == '"2"'
    await check(await client.patch("/sessions/s", json={}, headers={"If-Match": "*"}))
    assert await texts(client) == ["hello"]


async def test_bad_versions(client: Client) -> None:
    await make(client)
    for version in ("1", '"x"', 'W/"1"', '"1", "2"', '"-1"', '""', '"' + "9" * 30 + '"'):
        response = await client.post(MESSAGES, json=USER, headers={"If-Match": version})
        await check_problem(response, 422, "invalid_input", "If-Match")
    assert await texts(client) == []


async def test_respond_async(client: Client) -> None:
    await make(client)
    asked = {"Prefer": "respond-async, handling=lenient"}
    for method, path, body in (
        ("POST", MESSAGES, {"messages": [USER, USER]}),
        ("PUT", MESSAGES, {"messages": [ANSWER, USER]}),
        ("POST", "/sessions/s", [USER, ANSWER]),
    ):
        response = await client.request(method, path, json=body, headers=asked)
        assert await check(response, 202) == {"session_id": "s", "accepted": 2}
        assert response.headers["Preference-Applied"] == "respond-async"
    # W6: a read waits for the flush of what was acknowledged.
    assert await texts(client) == ["hello", "hi"]


async def test_respond_async_under_a_key(client: Client) -> None:
    await make(client)
    headers = {"Prefer": "respond-async", "Idempotency-Key": "k"}
    await check(await client.post(MESSAGES, json=USER, headers=headers), 202)
    again = await client.post(MESSAGES, json=USER, headers=headers)
    assert await check(again, 202) == {"session_id": "s", "accepted": 1}
    assert again.headers["Idempotent-Replayed"] == "true"
    assert await texts(client) == ["hello"]


async def test_respond_async_to_an_unknown_session(client: Client) -> None:
    response = await client.post(MESSAGES, json=USER, headers={"Prefer": "respond-async"})
    await check_problem(response, 404, "session_not_found")


async def test_a_version_is_waited_for(client: Client) -> None:
    await make(client)
    headers = {"Prefer": "respond-async", "If-Match": '"1"'}
    response = await client.post(MESSAGES, json=USER, headers=headers)
    await check(response, 201)
    assert "Preference-Applied" not in response.headers


async def test_wait(database_url: str) -> None:
    async with serving(database_url, durability="buffered", flush_interval=0.01) as client:
        await make(client)
        for prefer in ("wait", "wait=10", "respond-async, wait=10", "Wait"):
            response = await client.post(MESSAGES, json=USER, headers={"Prefer": prefer})
            await check(response, 201)
            assert response.headers["Preference-Applied"] == "wait"


async def test_buffered_by_default(database_url: str) -> None:
    async with serving(database_url, durability="buffered", flush_interval=0.01) as client:
        await make(client)
        response = await client.post(MESSAGES, json=USER)
        assert await check(response, 202) == {"session_id": "s", "accepted": 1}
        assert "Preference-Applied" not in response.headers
        assert await texts(client) == ["hello"]


async def test_other_preferences_are_ignored(client: Client) -> None:
    await make(client)
    for prefer in ("handling=strict", "return=minimal; wait", ""):
        response = await client.post(MESSAGES, json=USER, headers={"Prefer": prefer})
        await check(response, 201)
        assert "Preference-Applied" not in response.headers


async def test_the_request_id_comes_back(client: Client) -> None:
    response = await client.get("/health", headers={"X-Request-ID": "abc-1.2_3"})
    assert response.headers["X-Request-ID"] == "abc-1.2_3"


async def test_insane_request_ids_are_replaced(client: Client) -> None:
    for request_id in ("", "a b", "x" * 129, "ü", '"x"'):
        response = await client.get("/health", headers={"X-Request-ID": request_id})
        assert response.headers["X-Request-ID"] not in ("", request_id)


async def test_expect_continue(client: Client) -> None:
    await make(client)
    await check(await client.post(MESSAGES, json=USER, expect100=True), 201)
