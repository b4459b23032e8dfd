"""Approvals, as http-api.md has them, on both databases."""

from __future__ import annotations

import pytest

from tests.support.api_server import Client, Json, check, check_problem, make

APPROVALS = "/sessions/s/approvals"
APPROVAL_FIELDS = {
    *("call_id", "session_id", "tool_name", "arguments", "reason", "status", "created_at"),
    *("expires_at", "decided_at", "modified_arguments", "feedback"),
}

BAD_CHANGES: list[tuple[Json, str]] = [
    ({"call_id": None}, "$.call_id"),
    ({"call_id": "a\x00"}, "$.call_id"),
    ({"call_id": "x" * 256}, "$.call_id"),
    ({"tool_name": ""}, "$.tool_name"),
    ({"tool_name": 1}, "$.tool_name"),
    ({"reason": {}}, "$.reason"),
    ({"expires_in": 0}, "$.expires_in"),
    ({"expires_in": -1}, "$.expires_in"),
    ({"expires_in": 1e300}, "$.expires_in"),
    ({"expires_in": "1"}, "$.expires_in"),
    ({"other": 1}, "$.other"),
]
BAD_DECISIONS: list[tuple[Json, str]] = [
    ({}, "$.decision"),
    ({"decision": "maybe"}, "$.decision"),
    ({"decision": "edit"}, "$.modified_arguments"),
    ({"decision": "edit", "modified_arguments": None}, "$.modified_arguments"),
    ({"decision": "approve", "modified_arguments": {}}, "$.modified_arguments"),
    ({"decision": "reject", "modified_arguments": 1}, "$.modified_arguments"),
    ({"decision": "reject", "feedback": 1}, "$.feedback"),
]


async def ask(client: Client, call_id: str = "c", **fields: Json) -> Json:
    body = {"call_id": call_id, "tool_name": "write_file", "arguments": {"path": "a"}, **fields}
    return await check(await client.post(APPROVALS, json=body), 201)


async def decide(client: Client, decision: str, call_id: str = "c", **fields: Json) -> Json:
    body = {"decision": decision, **fields}
    return await check(await client.post(f"{APPROVALS}/{call_id}/decision", json=body))


@pytest.fixture
async def session(client: Client) -> None:
    await make(client)


@pytest.mark.usefixtures("session")
class TestApprovals:
    async def test_create(self, client: Client) -> None:
        response = await client.post(APPROVALS, json={"call_id": "c", "tool_name": "t", "arguments": [1]})
        approval = await check(response, 201)
        assert set(approval) == APPROVAL_FIELDS
        assert (approval["status"], approval["arguments"], approval["session_id"]) == ("pending", [1], "s")
        assert approval["expires_at"] is None
        assert response.headers["ETag"] == '"2"'

    async def test_create_twice(self, client: Client) -> None:
        await ask(client)
        again = await client.post(APPROVALS, json={"call_id": "c", "tool_name": "t", "arguments": {}})
        await check_problem(again, 409, "approval_exists")

    async def test_pending(self, client: Client) -> None:
        await ask(client, "a")
        await ask(client, "b")
        await decide(client, "approve", "a")
        waiting = await check(await client.get("/sessions/s/pending-approvals"))
        assert set(waiting) == {"session_id", "pending_approvals", "count", "next_after"}
        assert ([approval["call_id"] for approval in waiting["pending_approvals"]], waiting["count"]) == (
            ["b"],
            1,
        )

    async def test_list_by_status(self, client: Client) -> None:
        for call_id in "abc":
            await ask(client, call_id)
        await decide(client, "approve", "a")
        await decide(client, "reject", "b", feedback="no")
        every = await check(await client.get(APPROVALS))
        assert set(every) == {"session_id", "approvals", "next_after"}
        assert [approval["call_id"] for approval in every["approvals"]] == ["a", "b", "c"]
        for status, call_id in (("approved", "a"), ("rejected", "b"), ("pending", "c")):
            found = await check(await client.get(f"{APPROVALS}?status={status}"))
            assert [approval["call_id"] for approval in found["approvals"]] == [call_id]

    async def test_edit(self, client: Client) -> None:
        await ask(client)
        approval = await decide(client, "edit", modified_arguments={"path": "b"}, feedback="there")
        assert (approval["status"], approval["modified_arguments"]) == ("edited", {"path": "b"})
        assert (approval["feedback"], approval["arguments"]) == ("there", {"path": "a"})
        assert approval["decided_at"] is not None

    async def test_decided_once(self, client: Client) -> None:
        await ask(client)
        first = await decide(client, "approve")
        assert await decide(client, "approve") == first
        other = await client.post(f"{APPROVALS}/c/decision", json={"decision": "reject"})
        await check_problem(other, 409, "approval_decided")

    async def test_expired(self, client: Client) -> None:
        await ask(client, expires_in=0.000001)
        late = await client.post(f"{APPROVALS}/c/decision", json={"decision": "approve"})
        await check_problem(late, 410, "approval_expired")
        assert (await check(await client.get("/sessions/s/pending-approvals")))["count"] == 0
        found = await check(await client.get(f"{APPROVALS}?status=expired"))
        assert [approval["status"] for approval in found["approvals"]] == ["expired"]

    async def test_delete(self, client: Client) -> None:
        await ask(client)
        await check(await client.delete(f"{APPROVALS}/c"), 204)
        await check_problem(await client.delete(f"{APPROVALS}/c"), 404, "approval_not_found")

    async def test_unknown(self, client: Client) -> None:
        decided = await client.post(f"{APPROVALS}/x/decision", json={"decision": "approve"})
        await check_problem(decided, 404, "approval_not_found")

    async def test_a_call_id_of_any_characters(self, client: Client) -> None:
        await ask(client, "a/b ü")
        await check(await client.delete(f"{APPROVALS}/a%2Fb%20%C3%BC"), 204)

    async def test_bad_approvals(self, client: Client) -> None:
        good = {"call_id": "c", "tool_name": "t", "arguments": {}}
        for change, path in BAD_CHANGES:
            refused = await client.post(APPROVALS, json={**good, **change})
            await check_problem(refused, 422, "invalid_input", path)
        for missing in good:
            rest = {name: value for name, value in good.items() if name != missing}
            await check_problem(await client.post(APPROVALS, json=rest), 422, "invalid_input", f"$.{missing}")
        assert (await check(await client.get(APPROVALS)))["approvals"] == []

    async def test_bad_decisions(self, client: Client) -> None:
        await ask(client)
        for body, path in BAD_DECISIONS:
            refused = await client.post(f"{APPROVALS}/c/decision", json=body)
            await check_problem(refused, 422, "invalid_input", path)
        assert (await check(await client.get("/sessions/s/pending-approvals")))["count"] == 1

    async def test_a_bad_status(self, client: Client) -> None:
        await check_problem(await client.get(f"{APPROVALS}?status=x"), 422, "invalid_input", "?status")
