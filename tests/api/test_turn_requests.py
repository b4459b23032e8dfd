"""Requests for turns that are refused, or repeated: nothing is asked of the model. On both databases."""

from __future__ import annotations

import asyncio
import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.api_server import Client, Json, check, check_problem, make
from tests.support.model_server import Reply, calls, says, status
from tests.support.turn_requests import (
    STREAM,
    ask,
    begin,
    call,
    decision,
    fails,
    follow,
    gist,
    messages,
    read_all,
    result,
    talking,
    turn_id,
    turns,
    user,
)

DONE = ("done", {"status": "completed"})

MALFORMED: list[tuple[Json, str]] = [
    ({}, "$.message.type"),
    ({"type": "shout", "content": "hi"}, "$.message.type"),
    ({"type": 1}, "$.message.type"),
    ("hi", "$.message"),
    ({"type": "user_message"}, "$.message.content"),
    ({"type": "user_message", "content": ""}, "$.message.content"),
    ({"type": "user_message", "content": []}, "$.message.content"),
    ({"type": "user_message", "content": None}, "$.message.content"),
    ({"type": "user_message", "content": {}}, "$.message.content"),
    ({"type": "tool_result", "result": "x"}, "$.message.call_id"),
    ({"type": "tool_result", "call_id": "c"}, "$.message"),
    ({"type": "tool_result", "call_id": "c", "result": "x", "error": "y"}, "$.message"),
    ({"type": "tool_result", "call_id": "c", "error": None}, "$.message"),
    ({"type": "tool_result", "call_id": "", "result": "x"}, "$.message.call_id"),
    ({"type": "tool_result", "call_id": "c\n", "result": "x"}, "$.message.call_id"),
    ({"type": "tool_result", "call_id": "c", "tool_name": 1, "result": "x"}, "$.message.tool_name"),
    ({"type": "switch_agent"}, "$.message.agent_type"),
    ({"type": "switch_agent", "agent_type": "nobody"}, "$.message.agent_type"),
    ({"type": "switch_agent", "agent_type": "coder", "content": 1}, "$.message.content"),
    ({"type": "hitl_decision", "call_id": "c"}, "$.message.decision"),
    ({"type": "hitl_decision", "call_id": "c", "decision": "maybe"}, "$.message.decision"),
    ({"type": "hitl_decision", "call_id": "c", "decision": "edit"}, "$.message.modified_arguments"),
    (decision("c", "approve", modified_arguments={}), "$.message.modified_arguments"),
    (decision("c", "reject", feedback=1), "$.message.feedback"),
]


async def test_malformed_messages(client: Client) -> None:
    await make(client)
    for message, path in MALFORMED:
        async with begin(client, message) as response:
            await check_problem(response, 422, "invalid_input", path)
    assert (await check(await client.get("/sessions/s")))["version"] == 1
    assert await turns(client) == []


async def test_malformed_requests(client: Client) -> None:
    for body, path in (
        ({"message": result("c", "x")}, "$.session_id"),
        ({"message": decision("c", "approve")}, "$.session_id"),
        ({"session_id": "s"}, "$.message"),
        ({"session_id": "", "message": user("hi")}, "$.session_id"),
        ({"session_id": "a\x00", "message": user("hi")}, "$.session_id"),
        ({"session_id": "s", "message": user("hi"), "agent": "coder"}, "$.agent"),
        ([], "$"),
    ):
        await check_problem(await client.post(STREAM, json=body), 422, "invalid_input", path)
    await check_problem(await client.post(STREAM), 400, "invalid_json")
    await check_problem(await client.get(STREAM), 405, "method_not_allowed")


EDITED: list[Json] = [
    {"path": "plan.md"},
    {"path": "plan.md", "content": 1},
    {"path": "plan.py", "content": ""},
    {"path": "../plan.md", "content": ""},
    ["plan.md"],
    "plan.md",
]


async def test_edited_arguments_are_checked_as_the_models_are(database_url: str) -> None:
    asked = calls(call("c", "write_file", path="plan.md", content="1"))
    async with talking(database_url, [asked]) as (client, _):
        await ask(client, {"type": "switch_agent", "agent_type": "architect", "content": "plan"})
        before = await check(await client.get("/sessions/s"))
        for arguments in EDITED:
            async with begin(client, decision("c", "edit", modified_arguments=arguments)) as response:
                await check_problem(response, 422, "invalid_input", "$.message.modified_arguments")
        assert await check(await client.get("/sessions/s")) == before
        assert (await check(await client.get("/sessions/s/pending-approvals")))["count"] == 1


async def test_an_edit_over_the_other_road_is_checked_alike(database_url: str) -> None:
    asked = calls(call("c", "write_file", path="plan.md", content="1"))
    approvals = "/sessions/s/approvals"
    async with talking(database_url, [asked]) as (client, _):
        await ask(client, {"type": "switch_agent", "agent_type": "architect", "content": "plan"})
        for arguments in EDITED:
            response = await client.post(f"{approvals}/c/decision", json=edit(arguments))
            await check_problem(response, 422, "invalid_input", "$.modified_arguments")
        right = {"path": "plan.md", "content": "2"}
        made = await check(await client.post(f"{approvals}/c/decision", json=edit(right)))
        assert (made["status"], made["modified_arguments"]) == ("edited", right)


async def test_an_edit_of_a_call_that_no_turn_made_is_not_looked_at(client: Client) -> None:
    await make(client)
    for n, arguments in enumerate(EDITED):
        approval = {"call_id": f"c{n}", "tool_name": "write_file", "arguments": {}}
        await check(await client.post("/sessions/s/approvals", json=approval), 201)
        path = f"/sessions/s/approvals/c{n}/decision"
        made = await check(await client.post(path, json=edit(arguments)))
        assert made["modified_arguments"] == arguments


def edit(arguments: Json) -> Json:
    return {"decision": "edit", "modified_arguments": arguments}


@pytest.mark.parametrize(
    ("sent", "content", "metadata"),
    [
        ({"result": "ok", "error": None}, "ok", None),
        ({"result": None, "error": "x"}, "Error: x", {"failed": True}),
        ({"result": None, "error": None}, "null", None),
    ],
)
async def test_null_beside_what_a_tool_came_to_means_nothing(
    database_url: str, sent: Json, content: str, metadata: Json
) -> None:
    async with talking(database_url, [calls(call("c", "read_file", path="a")), says("I see.")]) as (
        client,
        _,
    ):
        await ask(client, {"type": "switch_agent", "agent_type": "coder", "content": "read"})
        await ask(client, {"type": "tool_result", "call_id": "c", **sent})
        answer = (await messages(client))[2]
        assert (answer["content"], answer.get("metadata") or None) == (content, metadata)


async def test_a_failed_turn_leaves_a_line_without_the_models_words(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with talking(database_url, [status(400, "you said: secret")]) as (client, _):
        with caplog.at_level(logging.WARNING, "agent_runtime.turns"):
            events = await fails(client, user("hi"), "model_refused")
    assert "secret" in events[-1].data["error"]
    lines = [
        (each.levelname, each.getMessage()) for each in caplog.records if each.name == "agent_runtime.turns"
    ]
    assert lines == [("WARNING", f"turn {turn_id(events)} failed: model_refused")]
    assert "secret" not in caplog.text


async def test_what_there_is_not(database_url: str) -> None:
    async with talking(database_url, [says("a")]) as (client, _):
        for message in (
            result("c", 1),
            decision("c", "approve"),
            decision("c", "edit", modified_arguments={}),
        ):
            async with begin(client, message) as response:
                await check_problem(response, 404, "session_not_found")
        await check_problem(await client.get("/sessions/s/turns"), 404, "session_not_found")
        await check_problem(await client.get("/sessions/s/turns/t/events"), 404, "session_not_found")
        await check_problem(await client.post("/sessions/s/turns/t/stop"), 404, "session_not_found")
        await ask(client, user("hi"))
        async with begin(client, result("c", 1)) as response:
            await check_problem(response, 409, "call_not_open")
        for message in (decision("c", "reject"), decision("c", "edit", modified_arguments={})):
            async with begin(client, message) as response:
                await check_problem(response, 404, "approval_not_found")
        await check_problem(await client.get("/sessions/s/turns/t/events"), 404, "turn_not_found")
        await check_problem(await client.post("/sessions/s/turns/t/stop"), 404, "turn_not_found")


async def test_a_turn_belongs_to_its_session(database_url: str) -> None:
    async with talking(database_url, [says("a")]) as (client, _):
        turn = turn_id(await ask(client, user("hi"), "other"))
        await make(client)
        async with follow(client, turn) as response:
            await check_problem(response, 404, "turn_not_found")


async def test_a_repeat_under_a_key_hears_the_same_turn(database_url: str) -> None:
    async with talking(database_url, [says("Hel", "lo")]) as (client, model):
        first = await ask(client, user("hi"), Idempotency_Key="k")
        async with begin(client, user("hi"), Idempotency_Key="k") as stream:
            assert stream.headers["Idempotent-Replayed"] == "true"
            assert gist(await read_all(stream)) == gist(first)
        async with begin(client, user("ho"), Idempotency_Key="k") as response:
            await check_problem(response, 422, "idempotency_key_reused")
        assert len(model.requests) == 1
        assert len(await turns(client)) == 1


async def test_a_repeat_while_the_turn_runs_joins_it(database_url: str) -> None:
    gate = asyncio.Semaphore(0)
    async with talking(database_url, [says("Hel", "lo", gate=gate)]) as (client, model):
        async with (
            begin(client, user("hi"), Idempotency_Key="k") as first,
            begin(client, user("hi"), Idempotency_Key="k") as second,
        ):
            assert "Idempotent-Replayed" not in first.headers
            for _ in range(3):
                gate.release()
            heard = gist(await read_all(first))
            assert gist(await read_all(second)) == heard
            assert heard[-1] == DONE
        assert len(model.requests) == 1


async def test_if_match(database_url: str) -> None:
    async with talking(database_url, [says("a"), says("b")]) as (client, model):
        await make(client)
        async with begin(client, user("hi"), If_Match='"7"') as response:
            await check_problem(response, 412, "version_mismatch")
            assert response.headers["ETag"] == '"1"'
        assert model.requests == []
        async with begin(client, user("hi"), If_Match='"1"') as stream:
            assert stream.headers["ETag"] == '"2"'
            await read_all(stream)


async def test_of_many_at_once_one_turn_begins(database_url: str) -> None:
    gate = asyncio.Semaphore(0)
    async with talking(database_url, [says("a", gate=gate)]) as (client, model):
        found = await asyncio.gather(*(begin(client, user(str(n))) for n in range(10)))
        assert sorted(response.status for response in found) == [200, *[409] * 9]
        gate.release()
        gate.release()
        [stream] = [response for response in found if response.status == 200]
        assert gist(await read_all(stream))[-1] == DONE
        assert len(model.requests) == 1


async def test_of_many_at_once_one_decides(database_url: str) -> None:
    write = call("w", "write_file", path="a", content="")
    async with talking(database_url, [calls(write), says("Then not.")]) as (client, _):
        await ask(client, {"type": "switch_agent", "agent_type": "coder", "content": "write"})
        edited = {"path": "b", "content": ""}
        decisions = [
            decision("w", "approve"),
            decision("w", "reject"),
            decision("w", "edit", modified_arguments=edited),
        ]
        found = await asyncio.gather(*(begin(client, each) for each in decisions * 3))
        # Those that come while the winner's turn runs are told of that.
        assert sorted({response.status for response in found}) == [200, 409]
        assert [response.status for response in found].count(200) == 1
        for response in found:
            await response.read()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
FIELDS = {
    "content": JSON,
    "call_id": st.sampled_from(["w", "x"]) | JSON,
    "result": JSON,
    "error": JSON,
    "tool_name": JSON,
    "agent_type": st.sampled_from(["coder", "ask"]) | JSON,
    "decision": st.sampled_from(["approve", "edit", "reject"]) | JSON,
    "modified_arguments": JSON,
    "feedback": JSON,
}
NEEDED = {
    "user_message": {"content"},
    "tool_result": {"call_id"},
    "switch_agent": {"agent_type"},
    "hitl_decision": {"call_id", "decision"},
}


def of_type(kind: str) -> st.SearchStrategy[Json]:
    required = {name: FIELDS[name] for name in NEEDED[kind]}
    others = {name: FIELDS[name] for name in FIELDS if name not in required}
    optional = others if kind != "switch_agent" else {"content": others["content"]}
    return st.fixed_dictionaries({"type": st.just(kind), **required}, optional=optional)


@pytest.mark.slow
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(sorted(NEEDED)).flatmap(of_type), min_size=1, max_size=8))
def test_no_message_breaks_the_server(sqlite_url: str, said: list[Json]) -> None:
    asyncio.run(say_all(sqlite_url, said))


async def say_all(url: str, said: list[Json]) -> None:
    async with talking(url, writes_as_coder) as (client, _):
        await ask(client, {"type": "switch_agent", "agent_type": "coder", "content": "write"})
        for message in said:
            async with begin(client, message) as response:
                assert response.status in (200, 409, 410, 404, 422), await response.text()
                if response.status == 200:
                    assert (await read_all(response))[-1].name == "done"


def writes_as_coder(body: Json) -> Reply:
    may_write = "write_file" in {tool["function"]["name"] for tool in body["tools"]}
    return calls(call("w", "write_file", path="a", content="")) if may_write else says("ok")
