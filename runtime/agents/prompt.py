"""Turns a log into the messages for a model, in a form that strict servers accept."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from runtime.store.messages import texts_of
from runtime.store.records import JsonText

INTERRUPTED = "Interrupted: this call was never answered. It is not known whether it was carried out."
NOT_APPROVED = "Interrupted: nobody approved this call in time. It was not carried out."

# What chat-completion servers take as the name of a tool.
NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_-]")
LONGEST_NAME = 64

Message = dict[str, Any]


class Decisions(Struct, frozen=True):
    """What became of calls that waited for a person: the arguments of those that were edited, as JSON, and
    which were decided too late. By the id of a call and its tool: some models use an id again for another.
    """

    edited: Mapping[tuple[str, str], JsonText] = {}
    expired: frozenset[tuple[str, str]] = frozenset()


def chat_messages(instructions: str, log: Sequence[Message], decisions: Decisions) -> list[Message]:
    """The instructions, with those in the log, then the conversation.

    Every call of a tool is followed by its result, a marked one where there is none in the log; a result
    without its call, and an empty message, are left out. An edited call has the arguments that were run.
    """
    stored = ["\n".join(_texts(each)) for each in log if each["role"] in ("system", "developer")]
    system = "\n\n".join(text for text in (instructions, *stored) if text)
    return [{"role": "system", "content": system}, *_paired(_from_a_question(log), decisions)]


def _texts(message: Message) -> list[str]:
    content = message["content"]
    return texts_of(json.loads(bytes(content)) if isinstance(content, msgspec.Raw) else content)


def _from_a_question(log: Sequence[Message]) -> Sequence[Message]:
    """The log from a user's message on: many models ask for that."""
    for index, message in enumerate(log):
        if message["role"] == "user":
            return log[index:]
    return log


def _paired(log: Sequence[Message], decisions: Decisions) -> Iterator[Message]:
    for index, message in enumerate(log):
        if message["role"] == "assistant":
            yield from _assistant(message, _results(log, index + 1), decisions)
        elif message["role"] == "user" and message["content"]:
            yield _kept(message, "role", "content", "name")


def _results(log: Sequence[Message], start: int) -> dict[str, Message]:
    """The results that follow an answer, up to the next answer or message of the user."""
    results: dict[str, Message] = {}
    for index in range(start, len(log)):
        message = log[index]
        if message["role"] in ("user", "assistant"):
            break
        if message["role"] == "tool":
            results.setdefault(str(message.get("tool_call_id")), message)
    return results


def _assistant(message: Message, results: Mapping[str, Message], decisions: Decisions) -> Iterator[Message]:
    calls = list(_calls(message.get("tool_calls") or ()))
    if calls:
        made = [_sent(call, decisions) for call in calls]
        yield {**_kept(message, "role", "content", "name"), "tool_calls": made}
    elif message["content"]:
        yield _kept(message, "role", "content", "name")
    for call in calls:
        late = (call.id, call.function.name) in decisions.expired
        result = results.get(call.id, {"content": NOT_APPROVED if late else INTERRUPTED})
        yield {"role": "tool", "tool_call_id": call.id, "content": result["content"] or ""}


class _Function(Struct):
    name: str
    arguments: str


class _PromptCall(Struct):
    id: str
    function: _Function


def _calls(calls: Iterable[Any]) -> Iterator[_PromptCall]:
    """Those in the form that chat-completion APIs know: others may have stored their own."""
    for call in calls:
        try:
            yield msgspec.convert(call, _PromptCall)
        except msgspec.ValidationError:
            continue


def _sent(call: _PromptCall, decisions: Decisions) -> Message:
    """The call as it was run. What the model itself got wrong would be refused when it comes back: its
    result says what was wrong."""
    name, arguments = call.function.name, call.function.arguments
    edited = decisions.edited.get((call.id, name), "")
    if edited.startswith("{"):
        arguments = edited
    elif not _is_object(arguments):
        arguments = "{}"
    function = {"name": NOT_IN_A_NAME.sub("_", name)[:LONGEST_NAME] or "_", "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}


def _is_object(text: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(text), dict)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return False


def _kept(message: Mapping[str, Any], *names: str) -> Message:
    """Only what every server knows: some refuse a message with a field of another's."""
    return {name: message[name] for name in names if name in message}
