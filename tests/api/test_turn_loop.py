"""The whole loop: question, handover, tool call, approval, result, answer; and what the model is sent at
each step. On both databases."""

from __future__ import annotations

from tests.api.asking import (
    ask,
    begin,
    call,
    decision,
    gist,
    messages,
    result,
    spoken,
    talking,
    turn_id,
    turns,
    user,
)
from tests.api.serving import Client, check, check_problem
from tests.api.showing import answered, calling, check_asked, handed, sent, shown
from tests.model_server import Asked, calls, says

DONE = ("done", {"status": "completed"})
HANDED_OVER = "The conversation is handed over to coder."


async def test_the_whole_loop(database_url: str) -> None:
    switch = call("h", "switch_agent", agent="coder", reason="code is wanted")
    write = call("w", "write_file", path="a.py", content="1")
    script = [
        calls(switch, before=["One moment."], usage=(10, 1)),
        calls(write, before=["I write it."], usage=(20, 2)),
        says("Written.", usage=(40, 4)),
    ]
    edited = {"path": "b.py", "content": "2"}
    async with talking(database_url, script) as (client, model):
        first = await ask(client, user("Write a file."))
        metadata = {"from_agent": "orchestrator", "to_agent": "coder", "reason": "code is wanted"}
        content = "orchestrator hands over to coder: code is wanted"
        switched = {"type": "agent_switched", "content": content, "metadata": metadata, "is_final": False}
        assert gist(first)[1:] == [
            "One moment.",
            ("message", {"type": "assistant_message", "content": "One moment.", "is_final": True}),
            ("message", switched),
            "I write it.",
            ("message", {"type": "assistant_message", "content": "I write it.", "is_final": True}),
            handed("w", "write_file", {"path": "a.py", "content": "1"}, asks=True),
            DONE,
        ]
        waiting = await check(await client.get("/sessions/s/pending-approvals"))
        [approval] = waiting["pending_approvals"]
        assert (approval["call_id"], approval["reason"]) == ("w", "changes files")

        second = await ask(client, decision("w", "edit", modified_arguments=edited))
        assert gist(second)[1:] == [handed("w", "write_file", edited), DONE]
        assert len(model.requests) == 2
        third = await ask(client, result("w", {"bytes": 1}))
        assert spoken(third) == "Written."
        async with begin(client, result("w", "again")) as response:
            await check_problem(response, 409, "call_not_open")
        await check_what_was_sent(model.requests, edited='{"path":"b.py","content":"2"}')
        await check_what_is_stored(client, turn_id(first), turn_id(third))
        assert [turn["turn_id"] for turn in await turns(client)] == [*map(turn_id, (third, second, first))]


async def check_what_was_sent(requests: list[Asked], edited: str) -> None:
    for asked, agent in zip(requests, ("orchestrator", "coder", "coder"), strict=True):
        check_asked(asked, agent)
    question = {"role": "user", "content": "Write a file."}
    switch = shown("h", "switch_agent", '{"agent": "coder", "reason": "code is wanted"}')
    routed = [calling(switch, content="One moment."), answered("h", HANDED_OVER)]
    write = calling(shown("w", "write_file", edited), content="I write it.")
    assert sent(requests[0]) == [question]
    assert sent(requests[1]) == [question, *routed]
    assert sent(requests[2]) == [question, *routed, write, answered("w", '{"bytes":1}')]


async def check_what_is_stored(client: Client, first: str, third: str) -> None:
    stored = await messages(client)
    assert [message["role"] for message in stored] == [
        *("user", "assistant", "tool", "assistant", "tool", "assistant")
    ]
    # The log keeps what the model asked for; the approval says what was run instead.
    assert stored[3]["tool_calls"] == [shown("w", "write_file", '{"path": "a.py", "content": "1"}')]
    assert [message.get("token_count") for message in stored] == [None, 1, None, 2, None, 4]
    said_by = [stored[n]["metadata"] for n in (1, 3, 5)]
    assert said_by == [
        {"turn_id": first, "agent": "orchestrator"},
        {"turn_id": first, "agent": "coder"},
        {"turn_id": third, "agent": "coder"},
    ]
    assert stored[4] == {**answered("w", '{"bytes":1}'), "name": "write_file"}
    history = await check(await client.get("/history/s"))
    assert [message["content"] for message in history["messages"]] == [m["content"] for m in stored]
    assert history["current_agent"] == "coder"
    [switch] = (await check(await client.get("/sessions/s/switches")))["switches"]
    told = [switch[name] for name in ("from_agent", "to_agent", "reason")]
    assert told == ["orchestrator", "coder", "code is wanted"]
    [approval] = (await check(await client.get("/sessions/s/approvals")))["approvals"]
    assert (approval["status"], approval["modified_arguments"]["path"]) == ("edited", "b.py")
    stats = await check(await client.get("/sessions/s/stats"))
    assert (stats["message_count"], stats["total_tokens"]) == (6, 7)
    counts = [(t["status"], t["agent"], t["input_tokens"], t["output_tokens"]) for t in await turns(client)]
    assert counts == [
        ("completed", "coder", 40, 4),
        ("completed", "coder", 0, 0),
        ("completed", "coder", 30, 3),
    ]
