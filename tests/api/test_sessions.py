"""Sessions, as http-api.md has them, on both databases."""

from __future__ import annotations

from datetime import datetime

from tests.support.api_server import (
    ANSWER,
    SESSION_FIELDS,
    USER,
    Client,
    append,
    check,
    check_problem,
    make,
    texts,
)


async def test_create_with_an_empty_body(client: Client) -> None:
    response = await client.post("/sessions")
    session = await check(response, 201)
    assert set(session) == SESSION_FIELDS
    assert response.headers["Location"] == f"/sessions/{session['session_id']}"
    assert response.headers["ETag"] == f'"{session["version"]}"' == '"1"'
    assert session["current_agent"] == "orchestrator"
    assert datetime.fromisoformat(session["created_at"]).utcoffset() is not None
    assert session["created_at"].endswith("Z")


async def test_create_with_everything(client: Client) -> None:
    body = {"title": "T", "description": "D", "metadata": {"a": [1, None]}, "agent": "coder"}
    session = await make(client, "all", **body, messages=[USER, ANSWER])
    assert {name: session[name] for name in ("title", "description", "metadata")} == {
        name: body[name] for name in ("title", "description", "metadata")
    }
    assert (session["current_agent"], session["last_seq"], session["message_count"]) == ("coder", 2, 2)
    assert await texts(client, session_id="all") == ["hello", "hi"]


async def test_create_twice(client: Client) -> None:
    await make(client)
    response = await client.post("/sessions", json={"session_id": "s"})
    await check_problem(response, 409, "session_exists")


async def test_put_creates_once(client: Client) -> None:
    made = await client.put("/sessions/s", json={"title": "first"})
    assert (await check(made, 201))["title"] == "first"
    assert made.headers["Location"] == "/sessions/s"
    there = await client.put("/sessions/s", json={"title": "second"})
    assert (await check(there, 200))["title"] == "first"
    assert "Location" not in there.headers
    await check(await client.put("/sessions/t"), 201)


async def test_put_that_must_not_create(client: Client) -> None:
    any_version = {"If-Match": "*"}
    response = await client.put("/sessions/s", headers=any_version)
    await check_problem(response, 404, "session_not_found")
    await make(client)
    await check(await client.put("/sessions/s", headers=any_version))


async def test_any_id_but_control_characters(client: Client) -> None:
    for session_id in ("a/b", "ü {x} ?#%", "x" * 255, "a%2Fb", "..x", "日本", "a+b;c=d&e"):
        response = await client.post("/sessions", json={"session_id": session_id})
        assert (await check(response, 201))["session_id"] == session_id
        place = response.headers["Location"]
        assert (await check(await client.get(place)))["session_id"] == session_id
        await check(await client.post(f"{place}/messages", json=USER), 201)
        assert (await check(await client.get(f"{place}/history")))["session_id"] == session_id


async def test_list_by_pages(client: Client) -> None:
    for session_id in "abc":
        await make(client, session_id)
    await append(client, USER, session_id="a")
    first = await check(await client.get("/sessions?limit=2"))
    assert set(first) == {"sessions", "next_cursor"}
    assert [session["session_id"] for session in first["sessions"]] == ["a", "c"]
    assert set(first["sessions"][0]) == SESSION_FIELDS
    parameters = {"limit": "2", "cursor": first["next_cursor"], "count": "true"}
    rest = await check(await client.get("/sessions", params=parameters))
    assert [session["session_id"] for session in rest["sessions"]] == ["b"]
    assert (rest["next_cursor"], rest["total"]) == (None, 3)


async def test_list_with_deleted_ones(client: Client) -> None:
    await make(client, "a")
    await make(client, "b")
    await check(await client.delete("/sessions/a"), 204)
    lives = await check(await client.get("/sessions?count=true"))
    assert ([session["session_id"] for session in lives["sessions"]], lives["total"]) == (["b"], 1)
    every = await check(await client.get("/sessions?include_deleted=true&count=true"))
    assert every["total"] == 2
    deleted = {session["session_id"]: session["deleted_at"] for session in every["sessions"]}
    assert deleted["a"] is not None
    assert deleted["b"] is None


async def test_patch(client: Client) -> None:
    await make(client, title="before", description="D")
    change = {"title": None, "metadata": {"k": 1}, "is_active": False}
    response = await client.patch("/sessions/s", json=change)
    session = await check(response)
    assert (session["title"], session["description"], session["metadata"]) == (None, "D", {"k": 1})
    assert session["is_active"] is False
    assert response.headers["ETag"] == f'"{session["version"]}"' == '"2"'
    assert await check(await client.get("/sessions/s")) == session


async def test_title_from_the_first_user_message(client: Client) -> None:
    await make(client)
    await append(client, ANSWER, {"role": "user", "content": "What is this?"})
    assert (await check(await client.get("/sessions/s")))["title"] == "What is this?"


async def test_delete_and_restore(client: Client) -> None:
    await make(client)
    await append(client, USER)
    response = await client.delete("/sessions/s")
    await check(response, 204)
    assert response.headers["ETag"]
    await check_problem(await client.get("/sessions/s"), 404, "session_not_found")
    await check_problem(await client.post("/sessions", json={"session_id": "s"}), 409, "session_exists")
    restored = await check(await client.post("/sessions/s/restore"))
    assert (restored["deleted_at"], restored["message_count"]) == (None, 1)
    assert await texts(client) == ["hello"]


async def test_delete_for_good(client: Client) -> None:
    await make(client)
    await append(client, USER)
    await check(await client.delete("/sessions/s?hard=true"), 204)
    await check_problem(await client.post("/sessions/s/restore"), 404, "session_not_found")
    await make(client)
    assert await texts(client) == []


async def test_stats(client: Client) -> None:
    await make(client)
    await append(client, {**USER, "token_count": 3}, {**ANSWER, "token_count": 4})
    response = await client.get("/sessions/s/stats")
    stats = await check(response)
    assert set(stats) == {
        *("session_id", "message_count", "total_tokens", "last_message_at", "created_at", "last_activity")
    }
    assert (stats["message_count"], stats["total_tokens"]) == (2, 7)
    assert response.headers["ETag"] == '"2"'


async def test_cleanup(client: Client) -> None:
    await make(client)
    kept = await check(await client.post("/maintenance/cleanup"))
    assert kept == {"soft_deleted": 0, "hard_deleted": 0}
    first = await check(await client.post("/maintenance/cleanup", json={"max_age_hours": 0}))
    assert first == {"soft_deleted": 1, "hard_deleted": 0}
    await check_problem(await client.get("/sessions/s"), 404, "session_not_found")
    then = await check(await client.post("/maintenance/cleanup", json={"hard_delete_after_days": 0}))
    assert then == {"soft_deleted": 0, "hard_deleted": 1}
    await check_problem(await client.post("/sessions/s/restore"), 404, "session_not_found")


async def listed(client: Client, query: str) -> list[str]:
    reply = await check(await client.get(f"/sessions?{query}"))
    return [session["session_id"] for session in reply["sessions"]]


async def test_a_list_is_filtered(client: Client) -> None:
    await make(client, "a", metadata={"team": "travel", "n": 5, "no": None, "a&b=c": "d e"}, agent="coder")
    await make(client, "b", metadata={"team": "travel", "n": "5"})
    await make(client, "c", metadata={"team": "sales"})
    await client.patch("/sessions/c", json={"is_active": False})
    await client.delete("/sessions/b")
    assert await listed(client, "metadata.team=travel&include_deleted=true") == ["b", "a"]
    assert await listed(client, "metadata.team=travel") == ["a"]
    assert await listed(client, "metadata.n=5&metadata.team=travel&agent=coder") == ["a"]
    assert await listed(client, "metadata.n=5&metadata.n=6") == []
    assert await listed(client, "metadata.no=null&metadata.a%26b%3Dc=d+e") == ["a"]
    assert await listed(client, "is_active=false") == ["c"]
    created = (await check(await client.get("/sessions/a")))["created_at"]
    assert await listed(client, f"created_after={created}") == ["c"]
    assert await listed(client, f"active_before={created}") == []
    counted = await check(await client.get("/sessions?agent=coder&count=true&limit=1"))
    assert (counted["total"], counted["next_cursor"]) == (1, None)


async def test_a_filter_that_there_cannot_be_is_named(client: Client) -> None:
    members = "&".join(f"metadata.{n}=v" for n in range(11))
    for query, place, expected in (
        ("created_after=yesterday", "?created_after", "expected one such as 2026-01-31T12:00:00Z"),
        ("active_before=2026-11-21T12:00:00", "?active_before", "timezone"),
        ("is_active=maybe", "?is_active", "Expected `bool | null`"),
        ("agent=", "?agent", "length >= 1"),
        ("metadata=v", "?metadata", "metadata.KEY=VALUE"),
        (members, "?metadata", "at most 10 members, got 11"),
    ):
        response = await client.get(f"/sessions?{query}")
        problem = await check_problem(response, 422, "invalid_input", place)
        assert expected in problem["detail"]


async def test_fork(client: Client) -> None:
    await make(client, "s", messages=[USER, ANSWER, USER], metadata={"k": 1})
    response = await client.post("/sessions/s/fork", json={"session_id": "f", "after": 2})
    fork = await check(response, 201)
    assert (response.headers["Location"], response.headers["ETag"]) == ("/sessions/f", '"1"')
    assert set(fork) == SESSION_FIELDS
    assert fork["forked_from"] == {"session_id": "s", "seq": 2}
    assert (fork["last_seq"], fork["message_count"], fork["metadata"]) == (2, 2, {"k": 1})
    assert await texts(client, session_id="f") == ["hello", "hi"]
    whole = await check(await client.post("/sessions/s/fork"), 201)
    assert whole["forked_from"] == {"session_id": "s", "seq": 3}
    reply = await check(await client.get("/sessions"))
    origins = {session["session_id"]: session["forked_from"] for session in reply["sessions"]}
    assert (origins["s"], origins["f"]) == (None, fork["forked_from"])
    assert (await check(await client.get("/sessions/f")))["forked_from"] == fork["forked_from"]


async def test_a_fork_that_there_cannot_be(client: Client) -> None:
    made = await make(client, "s", messages=[USER])
    await check_problem(await client.post("/sessions/t/fork"), 404, "session_not_found")
    taken = await client.post("/sessions/s/fork", json={"session_id": "s"})
    await check_problem(taken, 409, "session_exists")
    beyond = await client.post("/sessions/s/fork", json={"after": 2})
    problem = await check_problem(beyond, 422, "invalid_input", "$.after")
    assert "a number up to 1, that of the last message" in problem["detail"]
    stale = await client.post("/sessions/s/fork", headers={"If-Match": '"9"'})
    await check_problem(stale, 412, "version_mismatch")
    headers = {"If-Match": f'"{made["version"]}"', "Idempotency-Key": "k"}
    first = await check(await client.post("/sessions/s/fork", headers=headers), 201)
    again = await client.post("/sessions/s/fork", headers=headers)
    assert await check(again, 201) == first
    assert again.headers["Idempotent-Replayed"] == "true"
