"""What is in force, for a person to read."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import indent

from runtime.agents.registry import Agent, ApprovalPolicy, Limits, Registry


def describe_registry(registry: Registry) -> str:
    """Agents, tools and limits as lines of text."""
    parts = [_agent(name, agent, registry.allowed_tools(name)) for name, agent in registry.agents.items()]
    tools = "\n".join(_tools(registry))
    return "\n\n".join(["agents", *(indent(part, "  ") for part in parts), tools, _limits(registry.limits)])


def _agent(agent_type: str, agent: Agent, tools: list[str]) -> str:
    facts = {
        "model": agent.model,
        "parameters": ", ".join(f"{name} = {value!r}" for name, value in agent.parameters.items()),
        "tools": ", ".join(tools) or "none",
        "hands over to": ", ".join(agent.hands_over_to) or "nobody",
        "edits only": ", ".join(agent.files),
    }
    lines = [f"{agent_type} ({agent.name})", f"  {' '.join(agent.description.split())}"]
    return "\n".join([*lines, *(f"  {name + ':':14} {told}" for name, told in facts.items() if told)])


def _tools(registry: Registry) -> Iterator[str]:
    yield "tools"
    width = max(map(len, registry.tools), default=0)
    for name in registry.tools:
        yield f"  {name:{width}}  {_approval(registry.approval, name)}"


def _approval(policy: ApprovalPolicy, tool_name: str) -> str:
    reason = policy.reason_to_ask(tool_name)
    if reason is None:
        return "runs without approval"
    within = "" if policy.expires_in is None else f", within {policy.expires_in:g} seconds"
    return f"waits for approval{within}: {reason}"


def _limits(limits: Limits) -> str:
    return (
        "limits of a turn\n"
        f"  {limits.steps} questions to the model, {limits.handovers} handovers, {limits.seconds:g} seconds\n"
        f"  {limits.history_tokens} tokens and {limits.history_bytes} bytes of the log sent to the model"
    )
