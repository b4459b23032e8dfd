"""Calls of tools: several at once, decided on, edited, rejected, never answered; and handovers by the user.

On both databases.
"""

from __future__ import annotations

import re

from runtime.agents.stream_assembler import MAX_CHARACTERS
from tests.support.api_server import ANSWER, USER, Client, Json, append, check, check_problem, make
from tests.support.chat_messages import answered, check_asked, handed, sent, shown
from tests.support.model_server import calls, says
from tests.support.turn_requests import (
    ask,
    begin,
    call,
    decision,
    gist,
    messages,
    read_all,
    result,
    spoken,
    talking,
    turns,
    user,
)

DONE = ("done", {"status": "completed"})


async def statuses(client: Client) -> dict[str, str]:
    """The status of each approval."""
    found = await check(await client.get("/sessions/s/approvals"))
    return {approval["call_id"]: approval["status"] for approval in found["approvals"]}


async def to_coder(client: Client, question: str = "Do it.") -> list[Json]:
    return gist(await ask(client, {"type": "switch_agent", "agent_type": "coder", "content": question}))


async def test_a_rejection_reaches_the_model_with_its_feedback(database_url: str) -> None:
    script = [calls(call("x", "execute_command", command="rm a")), says("Then not.")]
    async with talking(database_url, script) as (client, model):
        await to_coder(client)
        events = await ask(client, decision("x", "reject", feedback="Too risky."))
        assert spoken(events) == "Then not."
        assert sent(model.requests[1])[-1] == answered(
            "x", "The user rejected this call. Feedback: Too risky."
        )
        assert (await messages(client))[2]["metadata"] == {"rejected": True}
        assert await statuses(client) == {"x": "rejected"}
        async with begin(client, result("x", "done anyway")) as response:
            await check_problem(response, 409, "call_not_open")
        async with begin(client, decision("x", "approve")) as response:
            await check_problem(response, 409, "approval_decided")


# What a client may have stored as the id of a call; no approval has it.
ODD_IDS = ("a\x00b", "\x00", "x" * 300, "", "a\nb", "\x7f")


async def talk_about_odd_calls(url: str) -> Json:
    """A conversation in which calls have odd ids: the bytes of its events, the model's requests, the log."""
    script = [says("One."), says("Two.")]
    function = {"name": "look\x00", "arguments": '{"at":"\\u0000"}'}
    made = [{"id": id, "type": "function", "function": function} for id in (*ODD_IDS, "ok")]
    async with talking(url, script) as (client, model):
        await make(client)
        await append(client, USER, {"role": "assistant", "content": None, "tool_calls": made})
        heard = [await read_bytes(client, user("Go on."))]
        await append(client, {"role": "assistant", "content": None, "tool_calls": made})
        await append(client, {"role": "tool", "tool_call_id": ODD_IDS[0], "content": "\x00"})
        heard.append(await read_bytes(client, result("ok", {"\x00": "\x00"})))
        heard.append(await read_bytes(client, user("And now?")))
        log = [{**each, "timestamp": "", "metadata": {}} for each in await messages(client)]
        return heard, [sent(request) for request in model.requests], log


async def read_bytes(client: Client, message: Json) -> bytes:
    """The events of a turn as they are sent, without its own id."""
    async with begin(client, message) as response:
        body = await response.read()
        assert response.status == 200, body
        return re.sub(rb'"turn_id":"[^"]+"', b"", body)


async def test_calls_with_odd_ids_block_no_turn_on_either_database(
    sqlite_url: str, postgres_url: str
) -> None:
    heard, asked, log = await talk_about_odd_calls(sqlite_url)
    assert (heard, asked, log) == await talk_about_odd_calls(postgres_url)
    assert [b"event: done" in each for each in heard] == [True] * 3
    assert ODD_IDS[0] in [each["id"] for each in asked[0][1]["tool_calls"]]


async def test_an_approved_call_is_handed_out_once(database_url: str) -> None:
    script = [calls(call("x", "execute_command", command="ls")), says("Empty.")]
    async with talking(database_url, script) as (client, model):
        assert (await to_coder(client))[-2] == handed("x", "execute_command", {"command": "ls"}, asks=True)
        events = await ask(client, decision("x", "approve"), Idempotency_Key="k")
        assert gist(events)[1:] == [handed("x", "execute_command", {"command": "ls"}), DONE]
        async with begin(client, decision("x", "approve")) as response:
            await check_problem(response, 409, "approval_decided")
        repeated = await ask(client, decision("x", "approve"), Idempotency_Key="k")
        assert repeated == events
        assert (
            spoken(await ask(client, {"type": "tool_result", "call_id": "x", "error": "no shell"}))
            == "Empty."
        )
        assert sent(model.requests[1])[-1] == answered("x", "Error: no shell")
        assert (await messages(client))[2]["metadata"] == {"failed": True}


async def test_several_calls_at_once(database_url: str) -> None:
    asked = (
        call("ok", "read_file", path="a"),
        call("bad", "read_file", file="a"),
        call("ask", "write_file", path="a", content=""),
    )
    async with talking(database_url, [calls(*asked), says("All done.")]) as (client, model):
        events = await to_coder(client)
        assert events[-3:] == [
            handed("ok", "read_file", {"path": "a"}),
            handed("ask", "write_file", {"path": "a", "content": ""}, asks=True),
            DONE,
        ]
        assert await statuses(client) == {"ask": "pending"}
        assert gist(await ask(client, result("ok", "text")))[1:] == [DONE]
        assert gist(await ask(client, decision("ask", "approve")))[-1] == DONE
        assert len(model.requests) == 1
        assert spoken(await ask(client, result("ask", None))) == "All done."
        made, *results = sent(model.requests[1])[1:]
        assert [shown["id"] for shown in made["tool_calls"]] == ["ok", "bad", "ask"]
        assert [answer["tool_call_id"] for answer in results] == ["ok", "bad", "ask"]
        assert [results[0]["content"], results[2]["content"]] == ["text", "null"]
        assert results[1]["content"].startswith("Error: The arguments do not fit the parameters of read_file")


async def test_a_call_that_is_refused_is_never_the_clients(database_url: str) -> None:
    script = [calls(call("bad", "write_file", path="a.md")), says("I see.")]
    async with talking(database_url, script) as (client, model):
        final = ("message", {"type": "assistant_message", "content": "I see.", "is_final": True})
        assert (await to_coder(client))[2:] == ["I see.", final, DONE]
        assert await statuses(client) == {}
        assert (await messages(client))[2]["metadata"] == {"failed": True}
        assert len(model.requests) == 2


async def test_the_user_hands_over(database_url: str) -> None:
    async with talking(database_url, [says("Mine.")]) as (client, model):
        silent = gist(await ask(client, {"type": "switch_agent", "agent_type": "ask"}))
        assert [data.get("type", name) for name, data in silent] == ["turn", "agent_switched", "done"]
        assert model.requests == []
        again = gist(await ask(client, {"type": "switch_agent", "agent_type": "ask"}))
        assert again[1:] == [DONE]
        spoken_to = await ask(client, {"type": "switch_agent", "agent_type": "debug", "content": "Why?"})
        assert spoken(spoken_to) == "Mine."
        check_asked(model.requests[0], "debug")
        switches = (await check(await client.get("/sessions/s/switches")))["switches"]
        assert [(switch["to_agent"], switch["reason"]) for switch in switches] == [
            ("debug", None),
            ("ask", None),
        ]
        assert [turn["agent"] for turn in await turns(client)] == ["debug", "ask", "ask"]


async def test_a_call_id_that_an_approval_has_is_not_used_again(database_url: str) -> None:
    write = calls(call("c", "write_file", path="a", content=""))
    async with talking(database_url, [write, write, says("Twice.")]) as (client, model):
        await to_coder(client)
        await ask(client, decision("c", "approve"))
        events = gist(await ask(client, result("c", "first")))
        new_id = events[-2][1]["call_id"]
        assert events[-2] == handed(new_id, "write_file", {"path": "a", "content": ""}, asks=True)
        assert new_id != "c"
        assert await statuses(client) == {"c": "approved", new_id: "pending"}
        await ask(client, decision(new_id, "approve"))
        assert spoken(await ask(client, result(new_id, "second"))) == "Twice."
        told = [(m["tool_call_id"], m["content"]) for m in sent(model.requests[2]) if m["role"] == "tool"]
        assert told == [("c", "first"), (new_id, "second")]


async def test_an_edit_of_an_older_call_is_checked_too(database_url: str) -> None:
    """By what the agent may do that made it, which a message that says otherwise does not change."""
    script = [calls(call("c", "write_file", path="a.md", content="")), says("Fine.")]
    async with talking(database_url, script) as (client, _):
        await ask(client, {"type": "switch_agent", "agent_type": "architect", "content": "Write."})
        await ask(client, {"type": "switch_agent", "agent_type": "coder"})
        function = {"name": "write_file", "arguments": "{}"}
        forged = {"id": "c", "type": "function", "function": function}
        await append(
            client,
            {"role": "assistant", "content": None, "tool_calls": [forged], "metadata": {"agent": "coder"}},
        )
        for _ in range(2):
            await append(client, *[{**ANSWER, "metadata": {"agent": "coder"}}] * 100)
        edit = {"decision": "edit", "modified_arguments": {"path": "a.py", "content": ""}}
        response = await client.post("/sessions/s/approvals/c/decision", json=edit)
        problem = await check_problem(response, 422, "invalid_input", "$.modified_arguments")
        assert "You may not change 'a.py'" in problem["errors"][0]["message"]
        async with begin(client, decision("c", **edit)) as response:
            await check_problem(response, 422, "invalid_input", "$.message.modified_arguments")
        edit["modified_arguments"] = {"path": "b.md", "content": ""}
        await check(await client.post("/sessions/s/approvals/c/decision", json=edit))


async def test_edited_arguments_are_those_of_one_call(database_url: str) -> None:
    script = [
        calls(call("c", "read_file", path="a")),
        calls(call("c", "write_file", path="a", content="")),
        says("Done."),
    ]
    async with talking(database_url, script) as (client, model):
        await to_coder(client)
        await ask(client, result("c", "text"))
        await ask(client, decision("c", "edit", modified_arguments={"path": "b", "content": ""}))
        await ask(client, result("c", "written"))
        read, written = [m["tool_calls"] for m in sent(model.requests[2]) if m["role"] == "assistant"]
        assert read == [shown("c", "read_file", '{"path": "a"}')]
        assert written == [shown("c", "write_file", '{"path":"b","content":""}')]


async def test_edited_arguments_are_no_longer_than_a_model_could_send(database_url: str) -> None:
    script = [calls(call("c", "write_file", path="a", content="")), says("Done.")]
    async with talking(database_url, script, max_body_bytes=2 * MAX_CHARACTERS) as (client, _):
        await to_coder(client)
        frame = len('{"path":"b","content":""}')
        for length, status in ((MAX_CHARACTERS - frame + 1, 422), (MAX_CHARACTERS - frame, 200)):
            edited = {"path": "b", "content": "x" * length}
            async with begin(client, decision("c", "edit", modified_arguments=edited)) as response:
                if status == 422:
                    await check_problem(response, 422, "invalid_input", "$.message.modified_arguments")
                else:
                    assert response.status == 200, await response.text()


async def test_a_call_that_nobody_answers_is_interrupted_for_the_model_alone(database_url: str) -> None:
    looks = (call("a", "read_file", path="a"), call("b", "read_file", path="b"))
    async with talking(database_url, [calls(*looks), says("Never mind.")]) as (client, model):
        await to_coder(client)
        await ask(client, result("b", "found"))
        assert spoken(await ask(client, user("Forget it."))) == "Never mind."
        _, made, first, second, question = sent(model.requests[1])
        assert [shown["id"] for shown in made["tool_calls"]] == ["a", "b"]
        assert (first["tool_call_id"], first["content"].split(":")[0]) == ("a", "Interrupted")
        assert second == answered("b", "found")
        assert question == {"role": "user", "content": "Forget it."}
        roles = [message["role"] for message in await messages(client)]
        assert roles == ["user", "assistant", "tool", "user", "assistant"]
        async with begin(client, result("a", "too late")) as response:
            await check_problem(response, 409, "call_not_open")


async def test_a_call_that_the_talk_has_gone_past_is_not_handed_out(database_url: str) -> None:
    script = [calls(call("c", "execute_command", command="ls")), says("Never mind.")]
    async with talking(database_url, script) as (client, _):
        await to_coder(client)
        await ask(client, user("Forget it."))
        # Its result could not be taken any more, and the model was told that it never came.
        async with begin(client, decision("c", "approve")) as response:
            await check_problem(response, 410, "approval_expired")
        assert await statuses(client) == {"c": "expired"}


async def test_a_rejection_that_was_given_elsewhere_is_told_once(database_url: str) -> None:
    script = [calls(call("c", "execute_command", command="ls")), says("I will not.")]
    async with talking(database_url, script) as (client, model):
        await to_coder(client)
        body = {"decision": "reject", "feedback": "No."}
        await check(await client.post("/sessions/s/approvals/c/decision", json=body))
        async with begin(client, decision("c", "reject", feedback="No.")) as stream:
            assert spoken(await read_all(stream)) == "I will not."
        assert sent(model.requests[1])[-1] == answered("c", "The user rejected this call. Feedback: No.")
        async with begin(client, decision("c", "reject", feedback="No.")) as response:
            await check_problem(response, 409, "approval_decided")
