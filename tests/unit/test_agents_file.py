"""The file of the agents: what is right is taken, what is wrong is one line that leads to its place."""

from __future__ import annotations

import copy
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.agents.configuration import load_registry
from runtime.agents.registry import SWITCH_AGENT, ApprovalRule, Limits
from runtime.errors import SettingsError

RIGHT = """\
# Two agents and a tool.
[agents.orchestrator]
name = "First"
description = "Takes what comes."
instructions = "Hand over."
hands_over_to = ["writer"]

[agents.writer]
name = "Writer"
description = "Writes."
instructions = \"""
Write.

[agents.writer]
\"""
model = "large"
parameters = { temperature = 0.2, stop = ["x"] }
tools = [
    "save",
]
files = ["docs/*.md"]

[tools.save]
description = "Save a file."
edits = "path"
[tools.save.parameters]
type = "object"
required = ["path"]
[tools.save.parameters.properties]
path = { type = "string" }

[approval]
default = "ask"
expires_in = 60
[[approval.rules]]
tool = "read_*"
ask = false
[[approval.rules]]
tool = "save"
reason = "saves"

[limits]
steps = 3
"""


# Up to where the second rule begins.
RULES = '[[approval.rules]]\ntool = "read_*"\nask = false\n[[approval.rules]]'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "agents.toml"


def refusal(file: Path, content: str | bytes) -> str:
    """How a file with this content is refused, after what every refusal begins with."""
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SettingsError) as caught:
        load_registry(str(file))
    text = str(caught.value)
    assert text.splitlines() == [text]
    begin = f"AGENT_RUNTIME__AGENTS_FILE {str(file)!r}"
    assert text.startswith(begin)
    return text.removeprefix(begin)


def changed(old: str, new: str) -> str:
    assert RIGHT.count(old) >= 1
    return RIGHT.replace(old, new, 1)


def test_every_field_of_a_right_file_is_taken(file: Path) -> None:
    file.write_text(RIGHT)
    registry = load_registry(str(file))
    writer = registry.agents["writer"]
    assert (writer.name, writer.model, writer.tools, writer.files) == (
        "Writer",
        "large",
        ["save"],
        ["docs/*.md"],
    )
    assert writer.parameters == {"temperature": 0.2, "stop": ["x"]}
    assert writer.instructions == "Write.\n\n[agents.writer]\n"
    assert registry.tools["save"].name == "save"
    assert registry.tools["save"].edits == "path"
    assert registry.approval.rules == [ApprovalRule("read_*", ask=False), ApprovalRule("save", "saves")]
    assert (registry.approval.default, registry.approval.expires_in) == ("ask", 60)
    assert registry.limits == Limits(steps=3)


def test_an_agent_may_leave_out_the_options_of_the_stream(file: Path) -> None:
    file.write_text(changed("temperature = 0.2", "stream_options = false"))
    writer = load_registry(str(file)).agents["writer"]
    assert writer.parameters == {"stream_options": False, "stop": ["x"]}


def test_a_section_that_is_left_out_is_built_in(file: Path) -> None:
    file.write_text("[limits]\nhandovers = 0\n")
    registry, builtin = load_registry(str(file)), load_registry("")
    assert registry.limits == Limits(handovers=0)
    assert (registry.agents, registry.tools, registry.approval) == (
        builtin.agents,
        builtin.tools,
        builtin.approval,
    )


def test_a_section_replaces_the_built_in_one_as_a_whole(file: Path) -> None:
    file.write_text(RIGHT.partition("[tools")[0].replace('"save"', '"read_file"') + "[approval]\n")
    registry = load_registry(str(file))
    assert list(registry.agents) == ["orchestrator", "writer"]
    assert registry.tools == load_registry("").tools
    assert registry.approval.rules == []


def test_the_built_in_file_named_as_a_file_is_the_same(file: Path) -> None:
    builtin = resources.files("runtime.agents").joinpath("builtin.toml").read_text("utf-8")
    file.write_text(builtin)
    assert load_registry(str(file)) == load_registry("")


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_files_of_other_systems_are_read_and_their_lines_counted_alike(
    file: Path, newline: str, mark: str
) -> None:
    text = (mark + RIGHT).replace("\n", newline)
    file.write_bytes(text.encode())
    assert len(load_registry(str(file)).agents) == 2
    assert refusal(file, text.replace("steps = 3", "steps = 0")).startswith(", line 43: limits.steps:")


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        # what TOML is
        ('name = "First"', "name = First", 3, "this is not TOML at column 8: Invalid value"),
        ("[agents.writer]\n", "[agents.orchestrator]\n", 8, "this is not TOML"),
        ("steps = 3\n", 'steps = """', 43, "this is not TOML: "),
        # what fields there are
        ('model = "large"', 'modell = "large"', 16, "modell: there is no such field; the nearest is 'model'"),
        ('edits = "path"', 'edit = "path"', 25, "edit: there is no such field; the nearest is 'edits'"),
        ('edits = "path"', 'name = "save"', 25, "tools.save.name: there is no such field"),
        ("ask = false", "aks = false", 37, "approval.rules[0].aks: there is no such field"),
        ("steps = 3", "step = 3", 43, "limits.step: there is no such field; the nearest is 'steps'"),
        ("[limits]", "[limit]", 42, "limit: there is no such section; the nearest is 'limits'"),
        ("[limits]\nsteps = 3", "[[limits]]", 42, "limits: this must be a table, [limits]"),
        ('model = "large"', '"a\\n.b]" = 1', 16, r"agents.writer.'a\n.b]': there is no such field"),
        ('model = "large"', '"" = 1', 16, "agents.writer.'': there is no such field"),
        # what they hold
        ('description = "Writes."\n', "", 8, "agents.writer.description: Object missing required field"),
        ('name = "Writer"', 'name = ""', 9, "agents.writer.name: Expected `str` of length >= 1"),
        ('tools = [\n    "save",\n]', "tools = 'save'", 18, "writer.tools: Expected `array`, got `str`"),
        ('"save",\n]', "'save', 1]", 18, "agents.writer.tools[1]: Expected `str`, got `int`"),
        ('default = "ask"', 'default = "maybe"', 33, "'maybe', expected \"ask\" or \"allow\""),
        ("expires_in = 60", "expires_in = 0", 34, "approval.expires_in: Expected `float` > 0"),
        ("expires_in = 60", "expires_in = inf", 34, "approval.expires_in: Expected `float` <= "),
        ('tool = "save"', "tool = 5", 39, "approval.rules[1].tool: Expected `str`, got `int`"),
        ('tool = "save"\nreason', "reason", 38, "rules[1].tool: Object missing required field `tool`"),
        (RULES, "[approval.rules]", 35, "approval.rules: Expected `array`, got `object`"),
        ("steps = 3", "steps = 0", 43, "limits.steps: Expected `int` >= 1"),
        ("steps = 3", "seconds = nan", 43, "limits.seconds: Expected `float`"),
        ("steps = 3", "history_tokens = true", 43, "limits.history_tokens: Expected `int`, got `bool`"),
        ("temperature = 0.2", "temperature = nan", 17, "temperature: JSON has no such value: nan"),
        ('stop = ["x"]', "since = 2026-01-01", 17, "parameters.since: JSON has no such value: 2026-01-01"),
        ("temperature = 0.2", 'model = "large"', 17, "parameters.model: name it in the agent's own"),
        ("temperature = 0.2", "messages = []", 17, "parameters.messages: the runtime sets this itself"),
        ("temperature = 0.2", "tools = []", 17, "parameters.tools: the runtime sets this itself"),
        ("temperature = 0.2", "stream = true", 17, "parameters.stream: the runtime sets this itself"),
        ("temperature = 0.2", "n = 2", 17, "parameters.n: the runtime sets this itself; take it out"),
        # whom and what they name
        ("[agents.orchestrator]", "[agents.first]", 2, "agents: there must be an agent 'orchestrator'"),
        ('["writer"]', '["writr"]', 6, "there is no other agent 'writr'; the nearest is 'writer'"),
        ('["writer"]', '["orchestrator"]', 6, "there is no other agent 'orchestrator'"),
        ('["writer"]', '["writer", "writer"]', 6, "hands_over_to[1]: 'writer' stands here twice"),
        ('    "save",\n', '    "safe",\n', 18, "tools[0]: there is no tool 'safe'; the nearest is 'save'"),
        ('    "save",\n', f'    "{SWITCH_AGENT}",\n', 18, "name agents in hands_over_to instead"),
        ("[tools.save]", f"[tools.{SWITCH_AGENT}]", 23, "the runtime has this tool itself"),
        ("[tools.save]", '[tools."save it"]', 23, "tools.'save it': the name of a tool must be"),
        ("[agents.writer]", '[agents."w\\u0007"]', 8, r"agents.'w\x07': as the name of an agent: Expected"),
        # what tools take
        ('type = "object"', 'type = "array"', 27, 'type: the JSON Schema of a tool must have type ='),
        ('type = "object"\n', "", 26, "tools.save.parameters.type: the JSON Schema"),
        ('{ type = "string" }', '{ type = "strin" }', 30, "type: this is no JSON Schema: 'strin' is not"),
        ('required = ["path"]', 'required = "path"', 28, "'path' is not of type 'array'"),
        ('{ type = "string" }', '{ pattern = "(" }', 30, "path.pattern: this is no JSON Schema: '(' is not"),
        ('edits = "path"', 'edits = "pat"', 25, "is none of the tool's properties; the nearest is 'path'"),
        # what files they may edit
        ('["docs/*.md"]', '["./docs/*"]', 21, "agents.writer.files[0]: './docs/*' would fit no file"),
        ('["docs/*.md"]', '["a", "/etc/*"]', 21, "agents.writer.files[1]: '/etc/*' would fit no file"),
        ('["docs/*.md"]', '["../*"]', 21, "'../*' would fit no file"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(file: Path, old: str, new: str, line: int, words: str) -> None:
    text = refusal(file, changed(old, new))
    assert text.startswith(f", line {line}: ")
    assert words in text


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        ("[agents]\n", 1, "there must be an agent 'orchestrator'"),
        ("\n[tools]\n", 2, "the built-in agent 'orchestrator' needs the tool 'list_files'"),
        ("tools = 5\n", 1, "tools: this must be a table"),
        ("agents.orchestrator = 5\n", 1, "agents.orchestrator: Expected `object`, got `int`"),
        ("\nagents.orchestrator.nam = 5\n", 2, "the nearest is 'name'"),
        ("\n\nlimits = { handovers = 1,  steps = -1 }", 3, "limits.steps: Expected `int` >= 1"),
        (b"# ok\n# \xff\n", 2, "byte 0xff is not UTF-8"),
        ("[limits]\nsteps = " + "9" * 5000, 2, "this is not TOML: Exceeds the limit"),
    ],
)
def test_short_files_that_are_wrong(file: Path, content: str | bytes, line: int, words: str) -> None:
    text = refusal(file, content)
    assert text.startswith(f", line {line}: ")
    assert words in text


@pytest.mark.slow
@pytest.mark.parametrize("deep", ["x = " + "[" * 5000, "parameters" + ".x" * 5000 + " = 1"])
def test_nesting_without_end_is_refused(file: Path, deep: str) -> None:
    text = changed('parameters = { temperature = 0.2, stop = ["x"] }', deep)
    assert refusal(file, text) == " is nested too deep to be read; make it flatter"


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.toml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(SettingsError) as caught:
            load_registry(str(path))
        assert str(caught.value).startswith(
            f"AGENT_RUNTIME__AGENTS_FILE {str(path)!r} cannot be read: {reason}"
        )


LINES = RIGHT.splitlines()


@given(data=st.data())
def test_a_file_with_any_line_spoilt_is_taken_or_refused_in_one_line(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines = copy.copy(LINES)
    number = data.draw(st.integers(0, len(lines) - 1))
    lines[number] = data.draw(st.text() | st.sampled_from(LINES) | st.just(lines[number][:-2]))
    file = tmp_path_factory.getbasetemp() / "spoilt.toml"
    file.write_text("\n".join(lines), encoding="utf-8", errors="replace")
    if text := refusal_if_any(file):
        assert text.splitlines() == [text]
        assert ", line " in text


def refusal_if_any(file: Path) -> str:
    try:
        load_registry(str(file))
    except SettingsError as error:
        return str(error)
    return ""
