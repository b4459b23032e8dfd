"""What is in force: which tools an agent may call, which calls wait for a person, what patterns fit."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from runtime.agents.configuration import load_registry
from runtime.agents.describe import describe_registry
from runtime.agents.registry import SWITCH_AGENT, ApprovalPolicy, ApprovalRule, matches

BUILTIN = load_registry("")
READING = ["read_file", "list_files", "search_in_code"]
WRITING = ["write_file", "create_directory"]


@pytest.mark.parametrize(
    ("agent_type", "tools", "files"),
    [
        ("orchestrator", READING, []),
        ("coder", [*READING, *WRITING, "execute_command"], []),
        ("architect", [*READING, *WRITING], ["*.md"]),
        ("debug", [*READING, "execute_command"], []),
        ("ask", READING, []),
    ],
)
def test_the_built_in_agents(agent_type: str, tools: list[str], files: list[str]) -> None:
    agent = BUILTIN.agents[agent_type]
    assert BUILTIN.allowed_tools(agent_type) == [*tools, SWITCH_AGENT]
    assert set(agent.hands_over_to) == BUILTIN.agents.keys() - {agent_type}
    assert agent.files == files
    assert 5 <= agent.instructions.count("\n") <= 12


def test_there_is_no_other_built_in_agent() -> None:
    assert list(BUILTIN.agents) == ["orchestrator", "coder", "architect", "debug", "ask"]


def test_the_built_in_policy_asks_before_changes_and_commands() -> None:
    asked = {name: reason for name in BUILTIN.tools if (reason := BUILTIN.approval.reason_to_ask(name))}
    assert asked == {
        "write_file": "changes files",
        "create_directory": "changes files",
        "execute_command": "runs a command",
    }
    for name in ("edit_file", "delete_file", "move_file", "run_tests"):
        assert BUILTIN.approval.reason_to_ask(name)


def test_definitions_are_what_chat_completion_servers_take() -> None:
    *tools, switch = BUILTIN.definitions("architect")
    assert [tool["function"]["name"] for tool in tools] == [*READING, *WRITING]
    for tool in (*tools, switch):
        assert tool.keys() == {"type", "function"}
        assert tool["type"] == "function"
        assert tool["function"].keys() == {"name", "description", "parameters"}
        assert tool["function"]["parameters"]["additionalProperties"] is False
        Draft202012Validator.check_schema(tool["function"]["parameters"])


def test_handing_over_is_a_tool_that_knows_whom_to_hand_to() -> None:
    parameters = BUILTIN.definitions("architect")[-1]["function"]["parameters"]
    agent = parameters["properties"]["agent"]
    assert agent["enum"] == ["orchestrator", "coder", "debug", "ask"]
    assert parameters["required"] == ["agent", "reason"]
    for name in agent["enum"]:
        assert f"{name}: {BUILTIN.agents[name].description}" in agent["description"]


@pytest.mark.parametrize(
    ("tool", "reason"),
    [
        ("read_secrets", "ours"),
        ("read_file", None),
        ("delete", "erases"),
        ("undelete", "ours"),
        ("x", "ours"),
    ],
)
def test_the_first_rule_that_matches_decides_else_the_default(tool: str, reason: str | None) -> None:
    rules = [
        ApprovalRule("*_secrets"),
        ApprovalRule("read_*", ask=False),
        ApprovalRule("delete", reason="erases"),
    ]
    assert ApprovalPolicy(rules, default="ask", reason="ours").reason_to_ask(tool) == reason


@pytest.mark.parametrize("tool", ["", "write_file"])
def test_without_rules_the_default_decides(tool: str) -> None:
    assert ApprovalPolicy().reason_to_ask(tool) is None
    assert ApprovalPolicy(default="ask").reason_to_ask(tool) == "needs approval"


@given(st.text("a*?[]!-\n/.", max_size=12), st.text("a?[]!-\n/.", max_size=12))
@example("[!a]", "b")
@example("a?", "ab")
@example("*", "")
@example("a*", "a/b\n")
def test_only_the_star_of_a_pattern_means_something(pattern: str, text: str) -> None:
    meant = ".*".join(map(re.escape, pattern.split("*")))
    assert matches(pattern, text) == bool(re.fullmatch(meant, text, re.DOTALL))


def test_case_counts() -> None:
    assert not matches("*.md", "a.MD")


def test_many_stars_take_no_time() -> None:
    assert not matches("*a" * 30 + "b", "a" * 10_000)


def test_the_summary_names_everything_in_force() -> None:
    text = describe_registry(BUILTIN)
    for name, agent in BUILTIN.agents.items():
        assert f"  {name} ({agent.name})\n    {agent.description}\n" in text
    for name in BUILTIN.tools:
        assert f"\n  {name} " in text
    assert "waits for approval: runs a command" in text
    assert "edits only:    *.md" in text
