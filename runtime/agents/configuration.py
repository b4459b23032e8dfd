"""Reads the agents, tools, approval policy and limits from TOML, and refuses what is wrong in it.

A file of the operator replaces each section that it has (`agents`, `tools`, `approval`, `limits`) as a
whole; a section that it leaves out is that of builtin.toml. So a file with [agents] alone has the built-in
tools, and one with [tools] alone must still have those that the built-in agents name.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Collection
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from jsonschema import Draft202012Validator, SchemaError

from runtime.agents.registry import SWITCH_AGENT, Agent, ApprovalPolicy, ApprovalRule, Limits, Registry, Tool
from runtime.agents.toml_location import Place, dotted, line_of
from runtime.agents.tool_validation import plain_path
from runtime.config import PREFIX
from runtime.errors import InvalidInput, SettingsError
from runtime.models import DEFAULT_AGENT
from runtime.store.validation import check_key, invalid_input

SETTING = f"{PREFIX}AGENTS_FILE"
SECTIONS = ("agents", "tools", "approval", "limits")
LONGEST_MESSAGE = 400
# Of what a model is sent, that which is not for the parameters of an agent; only one answer is read.
THE_RUNTIMES = ("model", "messages", "tools", "stream", "n")

T = TypeVar("T", bound=msgspec.Struct)


class _Wrong(Exception):
    """What is wrong at a place of the document, and what would be right."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place


def load_registry(path: str) -> Registry:
    """The registry of the file at `path`, checked; the built-in one where `path` is empty.

    Raises SettingsError, one line with the file, the line in it, what is wrong and what would be right.
    """
    builtin = tomllib.loads(resources.files("runtime.agents").joinpath("builtin.toml").read_text("utf-8"))
    if not path:
        return _registry(builtin, SECTIONS)
    text = _read_text(path)
    try:
        document = _parse(path, text)
        return _registry({**builtin, **document}, document)
    except _Wrong as wrong:
        message = f"{dotted(wrong.place)}: {wrong}"
        raise _refusal(path, line_of(text, wrong.place), message) from None
    except RecursionError:
        raise SettingsError(f"{SETTING} {path!r} is nested too deep to be read; make it flatter") from None


def _refusal(path: str, line: int, message: str) -> SettingsError:
    # The message may have line breaks, or quote all of the file.
    told = " ".join(message.split())
    return SettingsError(f"{SETTING} {path!r}, line {line}: {told[:LONGEST_MESSAGE]}")


def _read_text(path: str) -> str:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SettingsError(f"{SETTING} {path!r} cannot be read: {reason}; name a TOML file") from None
    try:
        # Editors on Windows may begin a file with a mark that TOML does not know.
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _refusal(path, line, f"byte {data[error.start]:#04x} is not UTF-8; save it as UTF-8") from None


def _parse(path: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    # A number of thousands of digits is another ValueError, and has no position.
    except ValueError as error:
        message, _, position = str(error).partition(" (at ")
        found = re.fullmatch(r"line (\d+), column (\d+)\)", position)
        line = int(found[1]) if found else text.rstrip().count("\n") + 1
        column = f" at column {found[2]}" if found else ""
        raise _refusal(path, line, f"this is not TOML{column}: {message}") from None


def _registry(document: dict[str, Any], given: Collection[str]) -> Registry:
    """The document as a registry; `given` are the sections that the operator wrote. Raises _Wrong."""
    for name, section in document.items():
        if name not in SECTIONS:
            raise _Wrong((name,), f"there is no such section; {_nearest(name, SECTIONS)}")
        if not isinstance(section, dict):
            raise _Wrong((name,), f"this must be a table, [{name}]")
    registry = Registry(
        agents={name: _agent(name, table) for name, table in document["agents"].items()},
        tools={name: _tool(name, table) for name, table in document["tools"].items()},
        approval=_approval(document["approval"]),
        limits=_convert(document["limits"], Limits, ("limits",)),
    )
    _check_agents(registry, given)
    return registry


def _agent(name: str, table: Any) -> Agent:
    place = ("agents", name)
    try:
        check_key(name, "")
    except InvalidInput as error:
        raise _Wrong(place, f"as the name of an agent: {error.problems[0].message}") from None
    agent = _convert(table, Agent, place)
    _check_parameters(agent.parameters, (*place, "parameters"))
    for index, pattern in enumerate(agent.files):
        if plain_path(pattern) != pattern:
            right = "write a relative path with '/' and without '.' and '..', such as 'docs/*.md'"
            raise _Wrong((*place, "files", index), f"{pattern!r} would fit no file; {right}")
    return agent


def _check_parameters(parameters: dict[str, Any], place: Place) -> None:
    _check_json(parameters, place)
    for name in THE_RUNTIMES:
        if name in parameters:
            own = "name it in the agent's own field model"
            right = own if name == "model" else "the runtime sets this itself; take it out"
            raise _Wrong((*place, name), right)


def _tool(name: str, table: Any) -> Tool:
    place = ("tools", name)
    if name == SWITCH_AGENT:
        raise _Wrong(place, "the runtime has this tool itself; give yours another name")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise _Wrong(place, "the name of a tool must be 1 to 64 of the characters A-Z a-z 0-9 _ -")
    tool = _convert(table, Tool, place, name=name)
    _check_schema(tool.parameters, (*place, "parameters"))
    properties = tool.parameters.get("properties", {})
    if tool.edits and tool.edits not in properties:
        nearest = _nearest(tool.edits, properties)
        raise _Wrong((*place, "edits"), f"{tool.edits!r} is none of the tool's properties; {nearest}")
    return tool


def _approval(table: dict[str, Any]) -> ApprovalPolicy:
    rules = table.get("rules")
    if isinstance(rules, list):
        for index, rule in enumerate(rules):
            _convert(rule, ApprovalRule, ("approval", "rules", index))
    return _convert(table, ApprovalPolicy, ("approval",))


def _check_schema(schema: dict[str, Any], place: Place) -> None:
    _check_json(schema, place)
    if schema.get("type") != "object":
        raise _Wrong((*place, "type"), 'the JSON Schema of a tool must have type = "object"')
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        # Where one of several schemas should fit, the first message helps most: it lists the types.
        message = (error.context[0] if error.context else error).message
        raise _Wrong((*place, *error.absolute_path), f"this is no JSON Schema: {message}") from None


def _check_json(value: Any, place: Place) -> None:
    """TOML has dates, times, nan and inf, which JSON has not."""
    if isinstance(value, dict):
        for name, part in value.items():
            _check_json(part, (*place, name))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            _check_json(part, (*place, index))
    elif not isinstance(value, str | int | float) or (isinstance(value, float) and not math.isfinite(value)):
        raise _Wrong(place, f"JSON has no such value: {value}; write a string or a number")


def _check_agents(registry: Registry, given: Collection[str]) -> None:
    """The first agent of a session is there, and so is everyone and everything that an agent names."""
    if DEFAULT_AGENT not in registry.agents:
        raise _Wrong(("agents",), f"there must be an agent {DEFAULT_AGENT!r}: new sessions begin with it")
    for name, agent in registry.agents.items():
        if "agents" not in given and (missing := set(agent.tools) - registry.tools.keys()):
            right = "add it, or write [agents] that do without it"
            raise _Wrong(("tools",), f"the built-in agent {name!r} needs the tool {min(missing)!r}; {right}")
        if SWITCH_AGENT in agent.tools:
            right = "the runtime adds it itself; name agents in hands_over_to instead"
            raise _Wrong(("agents", name, "tools", agent.tools.index(SWITCH_AGENT)), right)
        _check_names(agent.tools, registry.tools, ("agents", name, "tools"), "tool")
        others = [other for other in registry.agents if other != name]
        _check_names(agent.hands_over_to, others, ("agents", name, "hands_over_to"), "other agent")


def _check_names(names: list[str], known: Collection[str], place: Place, kind: str) -> None:
    for index, name in enumerate(names):
        if name not in known:
            raise _Wrong((*place, index), f"there is no {kind} {name!r}; {_nearest(name, known)}")
        if name in names[:index]:
            raise _Wrong((*place, index), f"{name!r} stands here twice; take one out")


def _nearest(name: str, known: Collection[str]) -> str:
    if not known:
        return "there are none at all"
    return f"the nearest is {difflib.get_close_matches(name, known, n=1, cutoff=0)[0]!r}"


def _convert(table: Any, kind: type[T], place: Place, **more: str) -> T:
    """The table, with `more` fields, as this type. Raises _Wrong."""
    known = [name for name in kind.__struct_fields__ if name not in more]
    for name in table if isinstance(table, dict) else ():
        if name not in known:
            raise _Wrong((*place, name), f"there is no such field; {_nearest(name, known)}")
    try:
        return msgspec.convert({**table, **more} if isinstance(table, dict) else table, kind)
    except msgspec.ValidationError as error:
        [problem] = invalid_input(error, "").problems
    steps = (int(step) if step.isdigit() else step for step in re.findall(r"\w+", problem.path))
    right = ', expected "ask" or "allow"' if "enum value" in problem.message else ""
    raise _Wrong((*place, *steps), problem.message + right)
