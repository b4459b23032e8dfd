"""Messages, as http-api.md has them, on both databases."""

from __future__ import annotations

from tests.api.serving import ANSWER, USER, Client, Json, append, check, check_problem, make, texts

MESSAGES = "/sessions/s/messages"


def numbered(count: int) -> list[Json]:
    return [{"role": "user" if n % 2 else "assistant", "content": str(n)} for n in range(1, count + 1)]


async def test_append_one(client: Client) -> None:
    await make(client)
    response = await client.post(MESSAGES, json=USER)
    stored = await check(response, 201)
    assert set(stored) == {"session_id", "messages", "last_seq", "version"}
    assert [set(receipt) for receipt in stored["messages"]] == [{"seq", "timestamp"}]
    assert (stored["last_seq"], stored["version"]) == (1, 2)
    assert response.headers["ETag"] == '"2"'
    assert "Preference-Applied" not in response.headers


async def test_append_several(client: Client) -> None:
    await make(client)
    await append(client, USER)
    stored = await append(client, ANSWER, USER)
    assert [receipt["seq"] for receipt in stored["messages"]] == [2, 3]


async def test_all_of_a_message_comes_back(client: Client) -> None:
    await make(client)
    message = {
        "role": "assistant",
        "content": [{"type": "text", "text": "nul \u0000, 🙂, \u2028"}],
        "timestamp": "2024-05-15T20:00:00Z",
        "name": "n",
        "tool_call_id": "t",
        "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}],
        "token_count": 7,
        "metadata": {"deep": [[[{"a": None}]]], "big": 2**53 + 1, "bigger": 10**40, "small": 1.5e-300},
        "refusal": None,
        "messages": ["a field of a message may have any name"],
    }
    await check(await client.post(MESSAGES, json=message), 201)
    page = await check(await client.get(MESSAGES))
    assert page["messages"] == [{"seq": 1, **message}]


async def test_a_deep_message_comes_back(client: Client) -> None:
    await make(client)
    deep: Json = "end"
    for _ in range(399):
        deep = [deep]
    await check(await client.post(MESSAGES, json={**USER, "content": deep}), 201)
    assert await texts(client) == [deep]
    await check(await client.patch("/sessions/s", json={"metadata": {"deep": deep}}))
    assert (await check(await client.get("/sessions/s")))["metadata"] == {"deep": deep}


PAGES: list[tuple[str, str, tuple[str, int | None]]] = [
    ("", "12345", ("next_after", None)),
    ("?limit=2", "12", ("next_after", 2)),
    ("?after=2&limit=2", "34", ("next_after", 4)),
    ("?after=3&limit=2", "45", ("next_after", None)),
    ("?after=9", "", ("next_after", None)),
    ("?before=4&limit=2", "23", ("next_before", 2)),
    ("?before=3&limit=2", "12", ("next_before", None)),
    ("?last=2", "45", ("next_before", 4)),
    ("?last=9", "12345", ("next_before", None)),
    ("?role=assistant", "24", ("next_after", None)),
    ("?role=user&limit=2", "13", ("next_after", 3)),
    ("?role=user&before=5&limit=1", "3", ("next_before", 3)),
    ("?role=assistant&last=1", "4", ("next_before", 4)),
    ("?page=1&page_size=2", "12", ("next_after", 2)),
    ("?page=3&page_size=2", "5", ("next_after", None)),
    ("?page=9", "", ("next_after", None)),
    ("?page=2&page_size=1&role=assistant", "4", ("next_after", None)),
    ("?page_size=2", "12", ("next_after", 2)),
    ("?unknown=1", "12345", ("next_after", None)),
]


async def test_pages(client: Client) -> None:
    await make(client)
    await append(client, *numbered(5))
    for query, expected, (name, seq) in PAGES:
        response = await client.get(MESSAGES + query)
        page = await check(response)
        assert [message["content"] for message in page["messages"]] == list(expected), query
        assert set(page) == {"session_id", "messages", name, "last_seq", "version"}, query
        assert (page[name], page["last_seq"], page["version"]) == (seq, 5, 2), query
        assert response.headers["ETag"] == '"2"'


async def test_one_way_to_read_at_a_time(client: Client) -> None:
    await make(client)
    for query in ("after=1&before=2", "before=2&last=1", "after=1&page=1", "last=1&page=2"):
        second = query.split("&")[1].split("=")[0]
        await check_problem(await client.get(f"{MESSAGES}?{query}"), 422, "invalid_input", f"?{second}")


async def test_replace_keeps_an_equal_beginning(client: Client) -> None:
    await make(client)
    await append(client, *numbered(3))
    before = (await check(await client.get(MESSAGES)))["messages"]
    response = await client.put(MESSAGES, json={"messages": [*numbered(2), USER]})
    replaced = await check(response)
    assert set(replaced) == {"session_id", "messages", "last_seq", "version", "message_count"}
    assert [receipt["seq"] for receipt in replaced["messages"]] == [1, 2, 4]
    assert (replaced["last_seq"], replaced["message_count"]) == (4, 3)
    after = (await check(await client.get(MESSAGES)))["messages"]
    assert after[:2] == before[:2]
    assert response.headers["ETag"] == f'"{replaced["version"]}"'


async def test_truncate(client: Client) -> None:
    await make(client)
    await append(client, *numbered(4))
    assert await check(await client.delete(f"{MESSAGES}?after=2")) == {
        "deleted": 2,
        "last_seq": 4,
        "version": 3,
    }
    assert await texts(client) == ["1", "2"]
    assert (await append(client, USER))["last_seq"] == 5


async def test_truncate_needs_a_place(client: Client) -> None:
    await make(client)
    await check_problem(await client.delete(MESSAGES), 422, "invalid_input", "?after")


async def test_history(client: Client) -> None:
    await make(client)
    await append(client, USER, {**ANSWER, "tool_calls": [{"id": "1"}], "token_count": 5})
    await check(await client.post("/sessions/s/agent", json={"agent": "coder", "reason": "r"}))
    response = await client.get("/sessions/s/history")
    history = await check(response)
    assert set(history) == {
        *("session_id", "messages", "message_count", "last_activity", "current_agent", "agent_history")
    }
    assert [(message["role"], message["content"]) for message in history["messages"]] == [
        ("user", "hello"),
        ("assistant", "hi"),
    ]
    assert history["messages"][1]["tool_calls"] == [{"id": "1"}]
    assert (history["message_count"], history["current_agent"]) == (2, "coder")
    assert [entry["to"] for entry in history["agent_history"]] == ["orchestrator", "coder"]
    assert response.headers["ETag"] == '"3"'
    assert await check(await client.get("/history/s")) == history


async def test_save_makes_the_session(client: Client) -> None:
    saved = await check(await client.post("/sessions/s", json=[USER, ANSWER]))
    assert saved == {"status": "saved", "session_id": "s", "message_count": 2}
    again = await check(await client.post("/sessions/s", json={"messages": [USER, USER, ANSWER]}))
    assert again["message_count"] == 3
    assert await texts(client) == ["hello", "hello", "hi"]
    assert (await check(await client.post("/sessions/s", json=[])))["message_count"] == 0
    assert await texts(client) == []


async def test_save_that_must_not_create(client: Client) -> None:
    response = await client.post("/sessions/s", json=[USER], headers={"If-Match": "*"})
    await check_problem(response, 404, "session_not_found")
