"""The agents, the tools and the rules that are in force. `configuration` reads them from a file."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from runtime.config import Seconds
from runtime.models import MAX_EXPIRES_IN

# The tool by which a model hands over. The runtime runs it itself.
SWITCH_AGENT = "switch_agent"

Text = Annotated[str, Meta(min_length=1)]


class Tool(Struct, frozen=True, forbid_unknown_fields=True):
    """What a model may ask a client to do. `parameters` is a JSON Schema of type object.

    `edits` names the argument that holds the path of the file that the tool changes; empty: it changes none.
    """

    name: str
    description: Text
    parameters: dict[str, Any]
    edits: str = ""

    def definition(self) -> dict[str, Any]:
        """The tool in the form that chat-completion APIs take."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


class Agent(Struct, frozen=True, forbid_unknown_fields=True):
    """The purpose of an agent, its instructions, and its permissions.

    An empty `model` is the usual one; `parameters` go to the model as they are. `files` are patterns
    (see `matches`) of the files that it may edit; empty: any.
    """

    name: Text
    description: Text
    instructions: Text
    model: str = ""
    parameters: dict[str, Any] = {}
    tools: list[str] = []
    hands_over_to: list[str] = []
    files: list[Text] = []


class ApprovalRule(Struct, frozen=True, forbid_unknown_fields=True):
    """Whether a person is asked about the tools whose names match a pattern (see `matches`).

    An empty `reason` is that of the policy.
    """

    tool: Text
    reason: str = ""
    ask: bool = True


class ApprovalPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """Which tool calls wait for a person: the first rule that matches decides, else the default.

    `expires_in` is how many seconds an approval may wait; None: for ever. With `result_decides` the result of
    a call that waits approves it, and an error rejects it.
    """

    rules: list[ApprovalRule] = []
    default: Literal["ask", "allow"] = "allow"
    reason: Text = "needs approval"
    expires_in: Annotated[float, Meta(gt=0, le=MAX_EXPIRES_IN)] | None = None
    result_decides: bool = True

    def reason_to_ask(self, tool_name: str) -> str | None:
        """Why a person has to approve a call of this tool; None: nobody has to."""
        for rule in self.rules:
            if matches(rule.tool, tool_name):
                return (rule.reason or self.reason) if rule.ask else None
        return self.reason if self.default == "ask" else None


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """How much one turn may take. A step is one question to the model."""

    steps: Annotated[int, Meta(ge=1, le=1000)] = 25
    handovers: Annotated[int, Meta(ge=0, le=1000)] = 5
    seconds: Seconds = 600.0
    history_tokens: Annotated[int, Meta(ge=1, le=100_000_000)] = 100_000
    history_bytes: Annotated[int, Meta(ge=1, le=2**30)] = 4 * 2**20


class Registry(Struct, frozen=True):
    """The agents, tools and rules in force, checked: each name refers to one that exists."""

    agents: dict[str, Agent]
    tools: dict[str, Tool]
    approval: ApprovalPolicy
    limits: Limits

    def tools_of(self, agent_type: str) -> list[Tool]:
        """The tools that an agent may call, `switch_agent` last. Raises KeyError for an unknown agent."""
        agent = self.agents[agent_type]
        tools = [self.tools[name] for name in agent.tools]
        return [*tools, self._switch_agent(agent)] if agent.hands_over_to else tools

    def allowed_tools(self, agent_type: str) -> list[str]:
        """Their names."""
        return [tool.name for tool in self.tools_of(agent_type)]

    def definitions(self, agent_type: str) -> list[dict[str, Any]]:
        """The same in the form that chat-completion APIs take."""
        return [tool.definition() for tool in self.tools_of(agent_type)]

    def _switch_agent(self, agent: Agent) -> Tool:
        choice = "\n".join(f"{name}: {self.agents[name].description}" for name in agent.hands_over_to)
        properties = {
            "agent": {"type": "string", "enum": agent.hands_over_to, "description": choice},
            "reason": {"type": "string", "description": "Why it fits better, in one sentence."},
        }
        return Tool(
            name=SWITCH_AGENT,
            description="Hand the conversation over to another agent, which goes on at once.",
            parameters={
                "type": "object",
                "properties": properties,
                "required": ["agent", "reason"],
                "additionalProperties": False,
            },
        )


def matches(pattern: str, text: str) -> bool:
    """Whether a pattern fits the whole text. `*` is any run of characters, also of `/`.

    Every other character matches itself, `?` and `[` too; case counts.
    """
    return fnmatchcase(text, re.sub(r"[?\[]", r"[\g<0>]", pattern))
