"""Owners over HTTP: listed, and erased, by admins."""

from __future__ import annotations

import logging
from urllib.parse import quote

import pytest

from runtime.api.routes import STORE
from runtime.store.store import Store
from tests.support.api_server import USER, Client, Json, check, check_problem, serving
from tests.support.token_issuer import bearer

pytestmark = pytest.mark.slow

KEY = "internal-key-0123456789"
NAMES = ["alice@example.com", "Zoë 日本", "a/b?c#d%20", "x" * 255, "🦊", "..x", "{owner}"]


def store_of(client: Client) -> Store:
    return client.app[STORE]


async def make(client: Client, owner: str, session_id: str = "s") -> None:
    await store_of(client).create_session(session_id, owner=owner, messages=[USER])


async def listed(client: Client, query: str = "") -> Json:
    return await check(await client.get(f"/owners{query}"))


async def test_owners_are_listed_page_by_page(client: Client) -> None:
    for owner in ("bob", "alice", ""):
        await make(client, owner)
    page = await listed(client, "?limit=2")
    assert [owner["owner"] for owner in page["owners"]] == ["", "alice"]
    fields = {"owner", "sessions", "deleted_sessions", "messages", "last_activity"}
    assert set(page["owners"][0]) == fields
    page = await listed(client, f"?limit=2&cursor={page['next_cursor']}")
    assert [owner["owner"] for owner in page["owners"]] == ["bob"]
    assert page["next_cursor"] is None


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "cursor=x", "cursor="])
async def test_a_wrong_page_is_refused_with_its_place(client: Client, query: str) -> None:
    refused = await client.get(f"/owners?{query}")
    await check_problem(refused, 422, "invalid_input", f"?{query.partition('=')[0]}")


@pytest.mark.parametrize("name", NAMES)
async def test_an_owner_of_any_name_is_erased(client: Client, name: str) -> None:
    await make(client, name)
    await make(client, "other")
    path = f"/owners/{quote(name, safe='').replace('.', '%2E')}"
    for sessions in (1, 0):
        erased = await check(await client.delete(path))
        assert erased == {"owner": name, "sessions": sessions, "messages": sessions, "tokens": 0}
    assert [owner["owner"] for owner in (await listed(client))["owners"]] == ["other"]


async def test_what_is_nobodys_has_no_path(client: Client) -> None:
    await make(client, "")
    for path in ("/owners/", "/owners"):
        assert (await client.delete(path)).status in (404, 405)
    for name in ("%00", "x" * 256, "%C2%85", "%ff"):
        await check_problem(await client.delete(f"/owners/{name}"), 422, "invalid_input", "owner")
    assert [owner["owner"] for owner in (await listed(client))["owners"]] == [""]


async def test_the_tokens_of_an_owner_end_with_the_rest(database_url: str) -> None:
    async with serving(database_url, internal_api_key=KEY) as client:
        tokens = store_of(client).tokens
        alice, admin = [
            bearer((await tokens.create("test", owner=owner, scope="admin"))[1]) for owner in ("alice", "ops")
        ]
        await check(await client.post("/sessions", headers=alice), 201)
        erased = await check(await client.delete("/owners/alice", headers=admin))
        assert (erased["sessions"], erased["tokens"]) == (1, 1)
        await check_problem(await client.get("/sessions", headers=alice), 401, "unauthorized")
        # Its own, too.
        assert (await check(await client.delete("/owners/ops", headers=admin)))["tokens"] == 1
        await check_problem(await client.get("/owners", headers=admin), 401, "unauthorized")
        await check(await client.get("/owners", headers={"X-Internal-Auth": KEY}))


async def test_the_header_changes_nothing_about_whose_data_go(database_url: str) -> None:
    async with serving(database_url, internal_api_key=KEY) as client:
        for owner in ("alice", "bob"):
            await make(client, owner)
        headers = {"X-Internal-Auth": KEY, "X-Owner": "bob"}
        await check(await client.delete("/owners/alice", headers=headers))
        page = await check(await client.get("/owners", headers=headers))
        assert [owner["owner"] for owner in page["owners"]] == ["bob"]


async def test_a_dry_run_of_the_cleanup_counts_and_changes_nothing(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b", "deleted"):
        await make(client, "alice", name)
    await store_of(client).delete_session("deleted", owner="alice")
    order = {"max_age_hours": 0, "hard_delete_after_days": 0}
    expected = {"soft_deleted": 2, "hard_deleted": 1}
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            reply = await client.post("/maintenance/cleanup", json={**order, "dry_run": True})
            assert await check(reply) == expected
    assert [owner["sessions"] for owner in (await listed(client))["owners"]] == [2]
    assert await check(await client.post("/maintenance/cleanup", json=order)) == expected
    refused = await client.post("/maintenance/cleanup", json={"dry_run": "yes"})
    await check_problem(refused, 422, "invalid_input", "$.dry_run")
