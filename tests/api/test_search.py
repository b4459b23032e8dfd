"""The search over HTTP, on both databases."""

from __future__ import annotations

import pytest

from tests.support.api_server import Client, append, check, check_problem, make, serving

SAID = ("a lion", "a zebra", "a lion and a zebra")


@pytest.fixture
async def spoken(client: Client) -> Client:
    await make(client, title="Animals")
    await append(client, *({"role": "user", "content": text} for text in SAID))
    return client


async def test_hits_have_a_snippet_and_their_place(spoken: Client) -> None:
    found = await check(await spoken.get("/search", params={"q": "lion zeb*"}))
    [hit] = found["hits"]
    assert found == {"hits": [hit], "next_cursor": None, "complete": True}
    assert hit == {
        "session_id": "s",
        "title": "Animals",
        "seq": 3,
        "role": "user",
        "timestamp": hit["timestamp"],
        "snippet": "a lion and a zebra",
        "matches": [[2, 6], [13, 18]],
    }


async def test_pages_are_read_by_their_cursors(spoken: Client) -> None:
    first = await check(await spoken.get("/search", params={"q": "a", "limit": "2"}))
    rest = await check(await spoken.get("/search", params={"q": "a", "cursor": first["next_cursor"]}))
    assert [hit["seq"] for hit in first["hits"] + rest["hits"]] == [3, 2, 1]
    assert rest["next_cursor"] is None


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ({}, "?q"),
        ({"q": ""}, "?q"),
        ({"q": "!!!"}, "?q"),
        ({"q": "w" * 501}, "?q"),
        ({"q": "a", "limit": "0"}, "?limit"),
        ({"q": "a", "limit": "101"}, "?limit"),
        ({"q": "a", "role": "nobody"}, "?role"),
        ({"q": "a", "after": "yesterday"}, "?after"),
        ({"q": "a", "before": "2026-11-21T12:00:00"}, "?before"),
        ({"q": "a", "cursor": "zzz"}, "?cursor"),
        ({"q": "a", "session_id": "\n"}, "?session_id"),
    ],
)
async def test_what_is_wrong_in_a_search_is_named(client: Client, query: dict[str, str], path: str) -> None:
    await check_problem(await client.get("/search", params=query), 422, "invalid_input", path)


async def test_a_search_that_is_off_says_so(database_url: str) -> None:
    async with serving(database_url, search=False) as client:
        problem = await check_problem(await client.get("/search", params={"q": "a"}), 404, "search_off")
        assert "AGENT_RUNTIME__SEARCH" in problem["detail"]
