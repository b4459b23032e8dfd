"""What follows from a model's answer: what is stored, who is told, and whether the turn goes on."""

from __future__ import annotations

import json
from typing import Any

from msgspec.structs import replace

from runtime.agents.configuration import load_registry
from runtime.agents.model import Answer, ToolCall
from runtime.agents.registry import ApprovalPolicy, Registry
from runtime.agents.step import HANDED_OVER, ONE_AT_A_TIME, Step, judge
from runtime.store.records import SessionKey
from runtime.store.write.turn_commands import Ending

Json = Any

BUILTIN = load_registry("")
READ = ToolCall("r", "read_file", '{"path": "a"}')
WRITE = ToolCall("w", "write_file", '{"path": "a", "content": ""}')
WRONG = ToolCall("x", "read_file", "{}")
SWITCH = ToolCall("s", "switch_agent", '{"agent": "ask", "reason": "a question"}')


def judged(*calls: ToolCall, text: str = "", agent: str = "coder", **more: Any) -> Step:
    return judge(BUILTIN, agent, "t", Answer(text, calls, **more))


def fields(step: Step, registry: Registry = BUILTIN) -> dict[str, Any]:
    return step.fields(registry, SessionKey("", "s"))


def stored(step: Step) -> list[tuple[str, Json]]:
    """The role and the content of each message that is stored."""
    return [(message.role, json.loads(message.content)) for message in fields(step)["messages"]]


def told(step: Step) -> list[Json]:
    """The data of each event."""
    return [json.loads(event.data) for event in fields(step)["events"]]


def test_a_text_ends_the_turn() -> None:
    step = judged(text="Hello.", input_tokens=3, output_tokens=2)
    assert not step.goes_on
    assert fields(step)["ending"] == Ending("completed")
    assert (fields(step)["input_tokens"], fields(step)["output_tokens"]) == (3, 2)
    assert stored(step) == [("assistant", "Hello.")]
    [message] = fields(step)["messages"]
    assert (message.token_count, json.loads(message.metadata)) == (2, {"turn_id": "t", "agent": "coder"})
    assert told(step) == [{"type": "assistant_message", "content": "Hello.", "is_final": True}]


def test_an_empty_answer_is_told_too() -> None:
    assert told(judged()) == [{"type": "assistant_message", "content": "", "is_final": True}]
    assert stored(judged()) == [("assistant", "")]


def test_tokens_that_nobody_counted_are_not_stored_as_none() -> None:
    [message] = fields(judged(text="Hello."))["messages"]
    assert message.token_count is None


def test_an_answer_that_was_cut_off_says_so() -> None:
    [message] = fields(judged(text="Hel", finish_reason="length"))["messages"]
    assert json.loads(message.metadata)["finish_reason"] == "length"


def test_a_call_is_the_clients_and_ends_the_turn() -> None:
    step = judged(READ)
    assert not step.goes_on
    assert fields(step)["ending"] == Ending("completed")
    assert fields(step)["approvals"] == ()
    assert stored(step) == [("assistant", None)]
    [message] = fields(step)["messages"]
    function = {"name": "read_file", "arguments": '{"path": "a"}'}
    assert json.loads(message.tool_calls) == [{"id": "r", "type": "function", "function": function}]
    event = {"type": "tool_call", "call_id": "r", "tool_name": "read_file", "arguments": {"path": "a"}}
    assert told(step) == [{**event, "requires_approval": False, "is_final": True}]


def test_a_call_that_the_policy_names_waits_for_a_person() -> None:
    step = judged(WRITE)
    assert told(step)[0]["requires_approval"] is True
    [approval] = fields(step)["approvals"]
    assert (approval.call_id, approval.expires_in) == ("w", None)
    assert json.loads(approval.tool_name) == "write_file"
    assert json.loads(approval.arguments) == {"path": "a", "content": ""}
    assert json.loads(approval.reason) == "changes files"


def test_an_approval_waits_as_long_as_the_policy_says() -> None:
    policy = ApprovalPolicy(default="ask", reason="always", expires_in=60.0)
    [approval] = fields(judged(READ), replace(BUILTIN, approval=policy))["approvals"]
    assert (json.loads(approval.reason), approval.expires_in) == ("always", 60.0)


def test_a_wrong_call_is_answered_to_the_model() -> None:
    step = judged(WRONG, text="Let me see.")
    assert step.goes_on
    assert fields(step)["ending"] is None
    (said, content), (role, answer) = stored(step)
    assert (said, content, role) == ("assistant", "Let me see.", "tool")
    assert answer.startswith("Error: The arguments do not fit the parameters of read_file")
    result = fields(step)["messages"][1]
    assert (json.loads(result.tool_call_id), json.loads(result.name)) == ("x", "read_file")
    assert json.loads(result.metadata) == {"failed": True}
    assert [event["type"] for event in told(step)] == ["assistant_message"]


def test_the_clients_calls_are_waited_for_though_another_is_answered() -> None:
    step = judged(WRONG, READ, WRITE)
    assert not step.goes_on
    assert fields(step)["ending"] == Ending("completed")
    assert [role for role, _ in stored(step)] == ["assistant", "tool"]
    assert [(event["call_id"], event["requires_approval"]) for event in told(step)] == [
        ("r", False),
        ("w", True),
    ]


def test_a_handover_is_carried_out_and_the_turn_goes_on() -> None:
    step = judged(SWITCH)
    assert step.goes_on
    assert (step.switch_to, fields(step)["agent"]) == ("ask", "ask")
    assert json.loads(fields(step)["reason"]) == "a question"
    assert stored(step)[1] == ("tool", HANDED_OVER.format(agent="ask"))
    assert fields(step)["messages"][1].metadata is None
    assert told(step) == []


def test_a_handover_with_a_call_waits_for_the_client() -> None:
    step = judged(SWITCH, READ)
    assert (step.goes_on, step.switch_to) == (False, "ask")


def test_one_handover_in_an_answer() -> None:
    again = ToolCall("s2", "switch_agent", '{"agent": "debug", "reason": "no"}')
    step = judged(SWITCH, again)
    assert step.switch_to == "ask"
    assert stored(step)[2] == ("tool", f"Error: {ONE_AT_A_TIME}")


def test_what_an_agent_may_not_call_is_refused() -> None:
    step = judged(WRITE, agent="ask")
    assert step.goes_on
    assert "may not call 'write_file'" in stored(step)[1][1]
    architect = judged(WRITE, agent="architect")
    assert "You may not change 'a'" in stored(architect)[1][1]
