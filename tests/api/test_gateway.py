"""The earlier service's gateway and its clients, unchanged, against the gateway dialect of the stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from runtime.api.routes import StreamTimeouts
from tests.support.api_server import check, check_problem, serving
from tests.support.gateway_clients import (
    HEADERS,
    KEY,
    Gateway,
    bubbles,
    ide,
    ide_error,
    ide_result,
    ide_switch,
    ide_user,
    printed,
    task_of,
)
from tests.support.model_server import ModelServer, Script, calls, cut_after, says, silence, status
from tests.support.turn_requests import begin, call, result, talking, user

pytestmark = pytest.mark.slow

WRITE = call("w", "write_file", path="a.py", content="1")
READ = call("r", "read_file", path="a.py")
HANDOVER = call("h", "switch_agent", agent="coder", reason="code is wanted")


@asynccontextmanager
async def chatting(
    url: str, script: Script, session_id: str | None = "s", **settings: Any
) -> AsyncIterator[tuple[Gateway, ModelServer]]:
    """A gateway's socket, with a server whose model follows a script."""
    settings = {"internal_api_key": KEY, "stream_dialect": "gateway", **settings}
    async with talking(url, script, **settings) as (client, model):
        yield Gateway(client, session_id), model


async def roles(gateway: Gateway) -> list[str]:
    return [message["role"] for message in (await gateway.get("/sessions/s/history"))["messages"]]


async def test_an_answer_comes_once_and_whole(database_url: str) -> None:
    async with chatting(database_url, [says("Hel", "lo", " there.")]) as (gateway, _):
        frames = await gateway.send(ide_user("Hi"))
        whole = {
            "type": "assistant_message",
            "content": "Hello there.",
            "token": "Hello there.",
            "is_final": True,
        }
        assert frames == [whole]
        assert bubbles(frames) == [("assistant_message", "Hello there.")]
        assert printed(frames) == "Hello there."
        assert task_of(frames) == ("Hello there.", True)


async def test_words_before_a_handover_and_a_call_are_not_final(database_url: str) -> None:
    script = [calls(HANDOVER, before=["One moment."]), calls(WRITE, before=["I write it."]), says("Done.")]
    async with chatting(database_url, script) as (gateway, _):
        frames = await gateway.send(ide_user("Write a file"))
        assert bubbles(frames) == [
            ("assistant_message", "One moment."),
            ("agent_switched", "orchestrator → coder"),
            ("assistant_message", "I write it."),
            ("tool_call", "write_file w?"),
        ]
        assert task_of(frames) == ("One moment.I write it.", False)
        frames = await gateway.send(ide_result("w", "write_file", {"success": True}))
        assert task_of(frames) == ("Done.", True)
        current = await gateway.get("/agents/s/current")
        assert [(entry["from"], entry["to"]) for entry in current["agent_history"]] == [
            (None, "orchestrator"),
            ("orchestrator", "coder"),
        ]
        assert current["agent_history"][1]["reason"] == "code is wanted"


async def test_a_result_approves_the_call_that_waits(database_url: str) -> None:
    async with chatting(database_url, [calls(HANDOVER), calls(WRITE), says("Done.")]) as (gateway, model):
        await gateway.send(ide_user("Write a file"))
        waiting = await gateway.get("/sessions/s/pending-approvals")
        assert (waiting["count"], waiting["pending_approvals"][0]["call_id"]) == (1, "w")
        frames = await gateway.send(ide_result("w", "write_file", {"success": True}))
        assert bubbles(frames) == [("assistant_message", "Done.")]
        assert (await gateway.get("/sessions/s/pending-approvals"))["count"] == 0
        [approval] = (await gateway.get("/sessions/s/approvals"))["approvals"]
        assert (approval["status"], approval["decided_at"] is not None) == ("approved", True)
        assert model.requests[2].body["messages"][-1]["content"] == '{"success":true}'


@pytest.mark.parametrize("error", ["Операция отклонена: write_file", "Ошибка выполнения [E1]: disk full"])
async def test_an_error_rejects_the_call_that_waits(database_url: str, error: str) -> None:
    async with chatting(database_url, [calls(HANDOVER), calls(WRITE), says("I stop.")]) as (gateway, model):
        await gateway.send(ide_user("Write a file"))
        frames = await gateway.send(ide_error("w", "write_file", error))
        assert bubbles(frames) == [("assistant_message", "I stop.")]
        [approval] = (await gateway.get("/sessions/s/approvals"))["approvals"]
        assert approval["status"] == "rejected"
        assert error in approval["feedback"]
        assert error in model.requests[2].body["messages"][-1]["content"]


async def test_parallel_calls_are_answered_one_by_one(database_url: str) -> None:
    second = call("r2", "read_file", path="b.py")
    async with chatting(database_url, [calls(READ, second), says("Both read.")]) as (gateway, _):
        frames = await gateway.send(ide_user("Read both"))
        assert bubbles(frames) == [("tool_call", "read_file r"), ("tool_call", "read_file r2")]
        assert await gateway.send(ide_result("r", "read_file", {"text": "1"})) == []
        frames = await gateway.send(ide_result("r2", "read_file", {"text": "2"}))
        assert task_of(frames) == ("Both read.", True)


async def test_an_agent_is_chosen_in_the_menu(database_url: str) -> None:
    async with chatting(database_url, [says("I plan.")]) as (gateway, model):
        for remark in ("Switched to Coder", ""):
            frames = await gateway.send(ide_switch("coder", remark))
            assert [kind for kind, _ in bubbles(frames)] in (["agent_switched"], [])
        assert not model.requests
        assert (await gateway.get("/agents/s/current"))["current_agent"] == "coder"
        assert bubbles(await gateway.send(ide_user("Plan"))) == [("assistant_message", "I plan.")]


async def test_a_session_is_made_for_a_first_message_and_named_first(database_url: str) -> None:
    async with chatting(database_url, [says("Hello."), says("Again.")], session_id=None) as (gateway, _):
        first, *rest = await gateway.send(ide_user("Hi"))
        assert first == {"type": "session_info", "session_id": gateway.session_id, "is_final": False}
        assert bubbles(rest) == [("assistant_message", "Hello.")]
        assert bubbles(await gateway.send(ide_user("Hi"))) == [("assistant_message", "Again.")]
        sessions = await gateway.get("/sessions")
        assert [(each["id"], each["message_count"]) for each in sessions["sessions"]] == [
            (gateway.session_id, 4)
        ]


@pytest.mark.parametrize(
    "frame",
    [
        ide_switch("nobody", "Switched to Nobody"),
        ide_result("unknown", "write_file", {"success": True}),
        ide(type="hitl_decision", call_id="unknown", decision="approve"),
        ide(type="plan_decision", approval_request_id="p", decision="approve"),
    ],
    ids=lambda frame: str(frame["type"]),
)
async def test_a_mistake_in_a_good_frame_is_an_error_in_the_stream(database_url: str, frame: Any) -> None:
    async with chatting(database_url, [says("Hello."), says("Here.")]) as (gateway, _):
        await gateway.send(ide_user("Hi"))
        frames = await gateway.send(frame)
        assert [kind for kind, _ in bubbles(frames)] == ["error"]
        assert bubbles(await gateway.send(ide_user("Still there?"))) == [("assistant_message", "Here.")]


async def test_a_decision_that_was_made_already_is_an_error_in_the_stream(database_url: str) -> None:
    async with chatting(database_url, [calls(HANDOVER), calls(WRITE), says("Done.")]) as (gateway, _):
        await gateway.send(ide_user("Write a file"))
        await gateway.send(ide_result("w", "write_file", {"success": True}))
        for frame in (
            ide_result("w", "write_file", {}),
            ide(type="hitl_decision", call_id="w", decision="reject"),
        ):
            assert [kind for kind, _ in bubbles(await gateway.send(frame))] == ["error"]
        assert await roles(gateway) == ["user", "assistant", "tool", "assistant", "tool", "assistant"]


async def test_a_model_that_fails_is_an_error_in_the_stream(database_url: str) -> None:
    async with chatting(database_url, [status(500), says("Better.")]) as (gateway, _):
        frames = await gateway.send(ide_user("Hi"))
        assert [kind for kind, _ in bubbles(frames)] == ["error"]
        assert "500" in printed(frames)
        assert task_of(await gateway.send(ide_user("Hi")))[1]


async def test_an_empty_answer_is_no_empty_bubble(database_url: str) -> None:
    async with chatting(database_url, [says("")]) as (gateway, _):
        assert [kind for kind, _ in bubbles(await gateway.send(ide_user("Hi")))] == ["error"]


async def test_a_turn_goes_on_when_the_client_is_gone(database_url: str) -> None:
    async with chatting(database_url, [says("Hel", "lo.")]) as (gateway, _):
        async with gateway.client.post(
            "/agent/message/stream", json={"session_id": "s", "message": ide_user("Hi")}, headers=HEADERS
        ) as response:
            turn_id = response.headers["X-Turn-ID"]
        path = f"/sessions/s/turns/{turn_id}/events"
        async with gateway.client.get(path, headers=HEADERS) as response:
            assert b'"token":"Hello."' in await response.read()


async def test_the_list_without_a_query_has_every_session_and_the_total(database_url: str) -> None:
    async with chatting(database_url, []) as (gateway, _):
        for number in range(60):
            await check(
                await gateway.client.post("/sessions", json={"session_id": f"s{number}"}, headers=HEADERS),
                201,
            )
        listed = await gateway.get("/sessions")
        assert (len(listed["sessions"]), listed["total"]) == (60, 60)
        assert len((await gateway.get("/sessions?limit=10"))["sessions"]) == 10
        assert {"id", "session_id", "message_count", "title", "is_active"} <= listed["sessions"][0].keys()


async def test_without_the_key_nothing_is_let_in_but_health(database_url: str) -> None:
    async with chatting(database_url, []) as (gateway, _):
        for headers in ({}, {"X-Internal-Auth": "wrong"}):
            async with gateway.client.get("/sessions", headers=headers) as response:
                assert response.status == 401
            async with begin(gateway.client, user("hi"), **headers) as response:
                assert response.status == 401
        async with gateway.client.get("/health") as response:
            assert response.status == 200


async def test_the_dialect_follows_the_proxy_unless_it_is_chosen(database_url: str) -> None:
    async with serving(
        database_url, llm_proxy_url="http://127.0.0.1:9", llm_retries=0, internal_api_key=KEY
    ) as client:
        frames = await Gateway(client, "s").send(ide_user("Hi"))
        assert [kind for kind, _ in bubbles(frames)] == ["error"]
    async with (
        serving(database_url, llm_proxy_url="http://127.0.0.1:9", stream_dialect="native") as client,
        begin(client, result("c", "x"), session_id="new") as response,
    ):
        await check_problem(response, 404, "session_not_found")


async def test_the_policy_may_ask_for_a_decision_of_its_own(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "agents.toml"
    file.write_text('[approval]\nresult_decides = false\ndefault = "ask"\n')
    script = [calls(READ), says("Done.")]
    async with talking(database_url, script, agents_file=str(file)) as (client, _):
        async with begin(client, user("Read")) as response:
            await response.read()
        async with begin(client, result("r", "sneaked in")) as response:
            await check_problem(response, 409, "approval_pending")


async def test_the_native_dialect_names_a_new_session_first_too(database_url: str) -> None:
    async with (
        talking(database_url, [says("Hello.")]) as (client, _),
        client.post("/agent/message/stream", json={"message": user("Hi")}) as response,
    ):
        lines = (await response.text()).splitlines()
        assert lines[0] == "event: session_info"
        [session] = (await check(await client.get("/sessions")))["sessions"]
        assert session["session_id"] in lines[1]
        assert response.headers["X-Turn-ID"] in "".join(lines)


async def test_words_before_a_lost_connection_are_kept_and_not_final(database_url: str) -> None:
    async with chatting(database_url, [cut_after("So far"), says("Again.")]) as (gateway, _):
        frames = await gateway.send(ide_user("Hi"))
        assert [kind for kind, _ in bubbles(frames)] == ["assistant_message", "error"]
        assert (frames[0]["content"], frames[0]["is_final"]) == ("So far", False)
        assert bubbles(await gateway.send(ide_user("Hi"))) == [("assistant_message", "Again.")]


async def test_comments_keep_the_gateway_waiting_while_a_model_thinks(database_url: str) -> None:
    hold = asyncio.Event()
    pace = StreamTimeouts(heartbeat=0.01)
    async with chatting(database_url, [silence(hold, "Hello.")], pace=pace) as (gateway, _):
        body = {"session_id": "s", "message": ide_user("Hi")}
        async with gateway.client.post("/agent/message/stream", json=body, headers=HEADERS) as response:
            comments = [await response.content.readline() for _ in range(6)]
            assert comments == [b":\n", b"\n"] * 3
            hold.set()
            rest = await response.content.read()
        assert b'"token":"Hello."' in rest
