"""Turns a model answer into rows, events and the next action."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from runtime.agents.model import Answer, ToolCall
from runtime.agents.registry import SWITCH_AGENT, Registry
from runtime.agents.tool_validation import InvalidToolCall, check_call
from runtime.store.messages import new_messages
from runtime.store.records import SessionKey
from runtime.store.turn_events import NewEvent, assistant_message, tool_call
from runtime.store.validation import json_text
from runtime.store.write.commands import CreateApproval
from runtime.store.write.turn_commands import Ending

HANDED_OVER = "The conversation is handed over to {agent}."
ONE_AT_A_TIME = "The conversation is handed over already; it can be handed over once in an answer."


@dataclass
class Step:
    """One answer, judged: `handed` are the calls that the client shall run, with their arguments; `results`
    what the others came to, by call."""

    answer: Answer
    turn_id: str
    agent: str
    handed: list[tuple[ToolCall, dict[str, Any]]] = field(default_factory=list)
    results: list[tuple[ToolCall, str, bool]] = field(default_factory=list)
    switch_to: str | None = None
    reason: str | None = None

    @property
    def goes_on(self) -> bool:
        """Whether the model is to be asked again: it has results, and waits for no others."""
        return bool(self.results) and not self.handed

    def fields(self, registry: Registry, key: SessionKey) -> dict[str, Any]:
        """The step as the fields of AdvanceTurn."""
        return {
            "messages": new_messages([self._message(), *map(self._result, self.results)]),
            "approvals": tuple(self._approvals(registry, key)),
            "events": tuple(self._events(registry)),
            "agent": self.switch_to,
            "reason": None if self.reason is None else json_text(self.reason),
            "input_tokens": self.answer.input_tokens,
            "output_tokens": self.answer.output_tokens,
            "ending": None if self.goes_on else Ending("completed"),
        }

    def _message(self) -> dict[str, Any]:
        answer = self.answer
        message: dict[str, Any] = {"role": "assistant", "content": answer.text}
        if answer.calls:
            message["content"] = answer.text or None
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in answer.calls
            ]
        if answer.output_tokens:
            message["token_count"] = answer.output_tokens
        message["metadata"] = {"turn_id": self.turn_id, "agent": self.agent}
        if answer.finish_reason not in ("stop", "tool_calls"):
            message["metadata"]["finish_reason"] = answer.finish_reason
        return message

    def _result(self, result: tuple[ToolCall, str, bool]) -> dict[str, Any]:
        call, text, failed = result
        message = {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": text}
        return {**message, "metadata": {"failed": True}} if failed else message

    def _approvals(self, registry: Registry, key: SessionKey) -> list[CreateApproval]:
        expires_in = registry.approval.expires_in
        return [
            CreateApproval(
                key, call.id, json_text(call.name), json_text(arguments), json_text(reason), expires_in
            )
            for call, arguments in self.handed
            if (reason := registry.approval.reason_to_ask(call.name)) is not None
        ]

    def _events(self, registry: Registry) -> list[NewEvent]:
        events = []
        if self.answer.text or not self.answer.calls:
            events.append(assistant_message(json_text(self.answer.text)))
        for call, arguments in self.handed:
            asks = registry.approval.reason_to_ask(call.name) is not None
            name = json_text(call.name)
            events.append(tool_call(call.id, name, json_text(arguments), requires_approval=asks))
        return events


def judge(registry: Registry, agent: str, turn_id: str, answer: Answer) -> Step:
    """Sort the calls of an answer.

    A handover is done here, a call that the agent may make goes to the client, and any other call gets the
    reason as its result.
    """
    step = Step(answer, turn_id, agent)
    for call in answer.calls:
        try:
            arguments = check_call(registry, agent, call)
            if call.name != SWITCH_AGENT:
                step.handed.append((call, arguments))
                continue
            if step.switch_to is not None:
                raise InvalidToolCall(ONE_AT_A_TIME)
            step.switch_to, step.reason = arguments["agent"], arguments["reason"]
            step.results.append((call, HANDED_OVER.format(agent=step.switch_to), False))
        except InvalidToolCall as refusal:
            step.results.append((call, f"Error: {refusal}", True))
    return step
