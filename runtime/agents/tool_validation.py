"""Checks the tool calls of a model before anybody acts on them.

A refusal is written for the model, with what to do better.
"""

from __future__ import annotations

import json
import logging
import posixpath
from itertools import islice
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry as Documents

from runtime.agents.model import ToolCall
from runtime.agents.registry import Agent, Registry, Tool, matches
from runtime.errors import InvalidInput
from runtime.store.validation import json_text

logger = logging.getLogger("agent_runtime.agents")

ERRORS_TOLD = 3
LONGEST_ERROR = 300


class InvalidToolCall(Exception):
    """The call may not be made. The message is for the model."""


def check_call(registry: Registry, agent_type: str, call: ToolCall) -> dict[str, Any]:
    """The arguments of a call, parsed. Raises CallRefused.

    Calls of `switch_agent` are checked as all others. Raises KeyError for an unknown agent.
    """
    # Before the arguments: for a wrong tool that is the more useful error.
    tool = _find_tool(registry, agent_type, call.name)
    arguments: dict[str, Any] = _parse(call.arguments)
    _check(registry.agents[agent_type], tool, arguments)
    return arguments


def check_arguments(registry: Registry, agent_type: str, tool_name: str, arguments: Any) -> None:
    """Check arguments that are decoded already: a model's, or those that an approver put in their place.

    Raises CallRefused, and KeyError for an unknown agent.
    """
    _check(registry.agents[agent_type], _find_tool(registry, agent_type, tool_name), arguments)


def _check(agent: Agent, tool: Tool, arguments: Any) -> None:
    if not isinstance(arguments, dict):
        raise InvalidToolCall(f"The arguments of {tool.name} must be a JSON object.")
    _check_json(arguments)
    _check_schema(tool, arguments)
    if tool.edits:
        _check_file(agent, tool, arguments.get(tool.edits))


def _find_tool(registry: Registry, agent_type: str, name: str) -> Tool:
    tools = {tool.name: tool for tool in registry.tools_of(agent_type)}
    if name in tools:
        return tools[name]
    wrong = (
        f"The agent {agent_type!r} may not call {name!r}."
        if name in registry.tools
        else f"There is no tool {_shorten(repr(name))}."
    )
    right = f"You may call: {', '.join(tools)}." if tools else "You may call no tools."
    raise InvalidToolCall(f"{wrong} {right}")


def _parse(text: str) -> Any:
    """The decoded arguments. No text at all is how some models say that there are none."""
    if not text.strip():
        return {}
    try:
        return json.loads(text, object_pairs_hook=_object)
    # ValueError: also a number of more digits than Python reads. RecursionError: nested too deep.
    except (ValueError, RecursionError) as error:
        raise InvalidToolCall(f"The arguments are not JSON that can be read: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    # Which of the two counts would be decided anew, and otherwise, by each one who reads the text.
    if len(found) < len(pairs):
        raise InvalidToolCall("The arguments have an object in which a name stands twice.")
    return found


def _check_json(arguments: dict[str, Any]) -> None:
    """Refuse what the store would not take: NaN, half characters, nesting without end."""
    try:
        json_text(arguments)
    except InvalidInput as error:
        raise InvalidToolCall(f"The arguments {error.problems[0].message}") from None


def _check_schema(tool: Tool, arguments: dict[str, Any]) -> None:
    # An empty set of documents: without it jsonschema would fetch a $ref from the net.
    validator = Draft202012Validator(tool.parameters, registry=Documents())
    try:
        wrong = [
            f"{_shorten(error.json_path)}: {_shorten(error.message)}"
            for error in islice(validator.iter_errors(arguments), ERRORS_TOLD)
        ]
    # A schema that refers to nothing, to what is no schema or to itself raises whatever comes of that.
    except Exception as error:
        logger.warning("the parameters of tool %r cannot be applied: %r", tool.name, error)
        raise InvalidToolCall(f"The arguments of {tool.name} cannot be checked; do without it.") from None
    if wrong:
        raise InvalidToolCall(f"The arguments do not fit the parameters of {tool.name}: {'; '.join(wrong)}")


def _check_file(agent: Agent, tool: Tool, path: Any) -> None:
    if isinstance(path, str) and "\0" in path:
        raise InvalidToolCall(f"The argument {tool.edits!r} of {tool.name} has a NUL character in its path.")
    if not agent.files:
        return
    if not isinstance(path, str):
        raise InvalidToolCall(f"The argument {tool.edits!r} of {tool.name} must be the path of one file.")
    if not is_within(agent.files, path):
        raise InvalidToolCall(
            f"You may not change {_shorten(repr(path))}, only files whose relative path, written with '/' and"
            f" without '..', matches one of: {', '.join(agent.files)}. Hand over to another agent for others."
        )


def is_within(patterns: list[str], path: str) -> bool:
    """Whether one of the patterns fits the path."""
    plain = plain_path(path)
    return plain is not None and any(matches(pattern, plain) for pattern in patterns)


def plain_path(path: str) -> str | None:
    """A relative path without `.` and doubled `/`; None where it may lead elsewhere at one client or another.

    So may `..` (behind a link), `\\` and `:` (on Windows), `~` (in a shell) and a path from the root.
    """
    if path.startswith(("/", "~")) or any(sign in path for sign in "\\:\0") or ".." in path.split("/"):
        return None
    return posixpath.normpath(path)


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST_ERROR else f"{text[:LONGEST_ERROR]}…"
