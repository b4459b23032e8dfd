"""Tool calls of a model: what may be made passes, all else is refused in words that the model can use."""

from __future__ import annotations

import json
import posixpath
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from runtime.agents.configuration import load_registry
from runtime.agents.model import ToolCall
from runtime.agents.registry import SWITCH_AGENT, Registry, Tool
from runtime.agents.tool_validation import InvalidToolCall, check_arguments, check_call
from runtime.store.validation import MAX_NESTING

BUILTIN = load_registry("")


def check(name: str, arguments: str, agent_type: str = "coder", registry: Registry = BUILTIN) -> Any:
    return check_call(registry, agent_type, ToolCall("c", name, arguments))


def refusal(name: str, arguments: str, agent_type: str = "coder", registry: Registry = BUILTIN) -> str:
    with pytest.raises(InvalidToolCall) as caught:
        check(name, arguments, agent_type, registry)
    return str(caught.value)


def with_tool(parameters: dict[str, Any], edits: str = "", files: tuple[str, ...] = ()) -> Registry:
    """The built-in registry with one tool, `t`, that its agent `ask` may call."""
    ask = replace(BUILTIN.agents["ask"], tools=["t"], files=list(files))
    tool = Tool("t", "T", {"type": "object", **parameters}, edits)
    return replace(BUILTIN, agents={**BUILTIN.agents, "ask": ask}, tools={"t": tool})


def write(path: str) -> str:
    return json.dumps({"path": path, "content": ""})


def test_arguments_that_fit_come_back_parsed() -> None:
    assert check("read_file", ' {"path": "a.py", "start_line": 2} ') == {"path": "a.py", "start_line": 2}


@pytest.mark.parametrize("nothing", ["", "  \n"])
def test_no_arguments_at_all_are_an_empty_object(nothing: str) -> None:
    assert check("list_files", nothing) == {}


@pytest.mark.parametrize(
    ("agent_type", "name", "words"),
    [
        ("ask", "reed_file", "There is no tool 'reed_file'. You may call: read_file, list_files, search"),
        ("ask", "", "There is no tool ''."),
        ("ask", "\ud800\n", r"There is no tool '\ud800\n'."),
        ("ask", "x" * 10_000, "x…. You may call"),
        ("ask", "write_file", "The agent 'ask' may not call 'write_file'. You may call: read_file"),
    ],
)  # fmt: skip
def test_a_tool_that_the_agent_has_not_is_refused_with_those_that_it_has(
    agent_type: str, name: str, words: str
) -> None:
    text = refusal(name, write("a"), agent_type)
    assert words in text
    assert len(text) < 1000


def test_an_agent_without_tools_is_told_so() -> None:
    ask = replace(BUILTIN.agents["ask"], tools=[], hands_over_to=[])
    registry = replace(BUILTIN, agents={"ask": ask})
    assert refusal("read_file", "", "ask", registry).endswith("You may call no tools.")
    assert refusal(SWITCH_AGENT, "", "ask", registry).endswith("You may call no tools.")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ('{"path": "a"', "line 1 column 13 (char 12)"),
        ("path=a", "are not JSON that can be read: Expecting value: line 1 column 1"),
        ('{"path": "a"} {}', "Extra data"),
        ('{"path": ' + "9" * 5000 + "}", "are not JSON that can be read"),
        ("[" * 100_000, "are not JSON that can be read"),
        ('["a"]', "must be a JSON object"),
        ("null", "must be a JSON object"),
        ('{"path": "a", "path": "b"}', "a name stands twice"),
        ('{"path": NaN}', "not finite"),
        ('{"path": -Infinity}', "not finite"),
        ('{"path": 1e999}', "not finite"),
        ('{"path": "\\ud800"}', "surrogates"),
        ('{"path": "\ud800"}', "surrogates"),
        ('{"path": ' + "[" * MAX_NESTING + "1" + "]" * MAX_NESTING + "}", "nested more than"),
    ],
)
def test_what_is_no_json_object_is_refused(arguments: str, words: str) -> None:
    text = refusal("read_file", arguments)
    assert words in text
    assert len(text) < 500


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, ["$: 'path' is a required property"]),
        ({"path": 5}, ["$.path: 5 is not of type 'string'"]),
        ({"path": "", "start_line": 0}, ["$.path: ", "; $.start_line: 0 is less than the minimum of 1"]),
        ({"path": "a", "encoding": "x"}, ["('encoding' was unexpected)"]),
        ({"path": ["x" * 100_000]}, ["…"]),
    ],
)
def test_what_breaks_the_schema_is_refused_with_each_place(
    arguments: dict[str, Any], words: list[str]
) -> None:
    text = refusal("read_file", json.dumps(arguments))
    assert text.startswith("The arguments do not fit the parameters of read_file: ")
    assert all(word in text for word in words)
    assert len(text) < 1000


def test_only_a_few_of_many_errors_are_told() -> None:
    registry = with_tool({"additionalProperties": {"type": "string"}})
    assert refusal("t", json.dumps({str(n): n for n in range(1000)}), "ask", registry).count("is not of") == 3


@pytest.mark.parametrize(
    "parameters",
    [
        {"$ref": "http://127.0.0.1:9/schema"},
        {"$ref": "#/$defs/none"},
        {"$ref": "#/type/none"},
        {"$ref": "#/required", "required": ["a"]},
        {"$ref": "#"},
    ],
)
def test_a_schema_that_leads_nowhere_refuses_the_call(
    parameters: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert refusal("t", '{"a": 1}', "ask", with_tool(parameters)) == (
        "The arguments of t cannot be checked; do without it."
    )
    assert "the parameters of tool 't' cannot be applied" in caplog.text


# jsonschema would fetch it with a warning, which must not be what keeps it from doing so.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_no_schema_is_ever_fetched(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text('{"type": "object"}')
    registry = with_tool({"$ref": (tmp_path / "schema.json").as_uri()})
    assert "cannot be checked" in refusal("t", "{}", "ask", registry)


def test_a_schema_may_refer_to_its_own_parts() -> None:
    registry = with_tool({"properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"type": "string"}}})
    assert check("t", '{"a": "x"}', "ask", registry) == {"a": "x"}
    assert "$.a: 1 is not of type 'string'" in refusal("t", '{"a": 1}', "ask", registry)


def test_a_handover_is_checked_like_any_call() -> None:
    arguments = {"agent": "coder", "reason": "code"}
    assert check(SWITCH_AGENT, json.dumps(arguments), "ask") == arguments
    for wrong in ("ask", "nobody"):
        text = refusal(SWITCH_AGENT, json.dumps({**arguments, "agent": wrong}), "ask")
        assert f"$.agent: '{wrong}' is not one of ['orchestrator', 'coder', 'architect', 'debug']" in text
    assert "'reason' is a required property" in refusal(SWITCH_AGENT, '{"agent": "coder"}', "ask")


@pytest.mark.parametrize("path", ["a.md", "docs/a.md", "./a.md", "docs//./a.md", ".md", "a?[1].md", "…/ä.md"])
def test_a_file_that_a_pattern_fits_may_be_changed(path: str) -> None:
    assert check("write_file", write(path), "architect")["path"] == path


@pytest.mark.parametrize(
    "path",
    [
        "a.py",
        "a.MD",
        "a.md.py",
        "a.md/b.py",
        "x.md/../a.py",
        "x/../a.md",
        "../a.md",
        "a.md/..",
        "/a.md",
        "//a.md",
        "~/a.md",
        "~root/a.md",
        "C:a.md",
        "C:\\a.md",
        "x.md\\..\\a.py",
        "x\\a.md",
        "a.py:b.md",
        "a.md\n.py",
        "a.md ",
        ".",
    ],
)
def test_a_file_that_no_pattern_fits_is_refused_with_the_patterns(path: str) -> None:
    text = refusal("write_file", write(path), "architect")
    assert "You may not change " in text
    assert "matches one of: *.md." in text


@pytest.mark.parametrize("agent_type", ["architect", "coder"])
def test_a_path_with_nul_is_refused_whoever_asks(agent_type: str) -> None:
    assert "NUL" in refusal("write_file", write("a.py\0.md"), agent_type)


def test_an_agent_without_patterns_may_change_any_file() -> None:
    for path in ("a.py", "/etc/hosts", "../a", "C:\\a"):
        assert check("write_file", write(path), "coder")["path"] == path


@pytest.mark.parametrize("arguments", ["{}", '{"to": ["a.md"]}', '{"to": null}'])
def test_patterns_want_the_path_of_one_file(arguments: str) -> None:
    registry = with_tool({"properties": {"to": {}}}, edits="to", files=("*.md",))
    assert "'to' of t must be the path of one file" in refusal("t", arguments, "ask", registry)


# Pieces of which paths that try to get out are made.
STEPS = st.sampled_from(
    ["docs", "..", ".", "", "x.md", "a.py", "~", "C:", "\\", "..\\", "/", "\0", "docs\\..", " "]
)
PATHS = st.lists(STEPS | st.text(max_size=3), max_size=6).map("/".join) | st.text(max_size=20)


@given(PATHS)
@example("docs/../secret.py")
@example("docs/x/../../secret.py")
@example("docs\\..\\secret.py")
@example("docs/..")
def test_a_path_outside_never_passes(path: str) -> None:
    registry = with_tool({}, edits="path", files=("docs/*",))
    try:
        check_arguments(registry, "ask", "t", {"path": path})
    except InvalidToolCall:
        return
    # What a client on any system makes of the path lies below docs.
    for read in (path, path.replace("\\", "/")):
        assert posixpath.normpath(posixpath.join("/project", read)).startswith("/project/docs/")
        assert posixpath.expanduser(read) == read


NAMES = st.sampled_from(["path", "content", "agent", "reason", "command", "timeout"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | NAMES, inner, max_size=3)
    ),
    max_leaves=8,
)
TOOLS = st.sampled_from([*BUILTIN.tools, SWITCH_AGENT]) | st.text()
HALVES = st.text(st.characters(categories=["Cs", "L"]), max_size=20)


@given(st.sampled_from(list(BUILTIN.agents)), TOOLS, st.text() | HALVES | JSON.map(json.dumps))
@example("coder", "execute_command", '{"command": "x", "timeout": 1' + "0" * 4000 + "}")
def test_whatever_a_model_sends_is_taken_or_refused(agent_type: str, name: str, arguments: str) -> None:
    told = ""
    try:
        check_arguments(BUILTIN, agent_type, name, check(name, arguments, agent_type))
    except InvalidToolCall as refused:
        told = str(refused)
    # It goes to the model, as UTF-8.
    told.encode()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "must be a JSON object"),
        (None, "must be a JSON object"),
        ({"path": "a.md"}, "'content' is a required property"),
        ({"path": "a.py", "content": ""}, "You may not change 'a.py'"),
        ({"path": "a.md", "content": "\ud800"}, "surrogates"),
    ],
)
def test_arguments_that_an_approver_edited_are_checked_alike(arguments: Any, words: str) -> None:
    with pytest.raises(InvalidToolCall) as caught:
        check_arguments(BUILTIN, "architect", "write_file", arguments)
    assert words in str(caught.value)
    check_arguments(BUILTIN, "architect", "write_file", {"path": "a.md", "content": ""})
