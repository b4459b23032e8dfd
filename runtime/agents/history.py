"""What a model is sent of a conversation: the log as it stands, in a form that every model accepts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from runtime.store.store import Store

# How many messages are read at a time, from the newest back.
PAGE = 100
# What a text is taken to be in tokens where nobody counted them: a few characters are one.
CHARACTERS_A_TOKEN = 4

INTERRUPTED = "Interrupted: this call was never answered. It is not known whether it was carried out."

Message = dict[str, Any]
# By the id of a call and its tool: some models use an id again, for another tool that nobody has to approve.
Edited = Mapping[tuple[str, str], Any]


async def read_history(store: Store, session_id: str, owner: str, tokens: int) -> list[Message]:
    """The newest messages of a session, oldest first: as many as fit into so many tokens, one at least."""
    newest: list[Message] = []
    page = await store.list_messages(session_id, last=PAGE, owner=owner)
    while True:
        for message, raw in zip(reversed(page.messages), reversed(page.encoded), strict=True):
            tokens -= message.get("token_count") or len(bytes(raw)) // CHARACTERS_A_TOKEN
            # A result is of no use without its call.
            if newest and tokens < 0 and newest[-1]["role"] != "tool":
                return newest[::-1]
            newest.append(message)
        if not page.more or page.first_seq is None:
            return newest[::-1]
        page = await store.list_messages(session_id, before=page.first_seq, limit=PAGE, owner=owner)


async def read_edited(store: Store, session_id: str, owner: str, log: Sequence[Message]) -> Edited:
    """The arguments that approvers put in place of those that the model had sent."""
    if not any(message.get("tool_calls") for message in log):
        return {}
    edited = await store.list_approvals(session_id, status="edited", owner=owner)
    return {(each.call_id, each.tool_name): each.modified_arguments for each in edited.approvals}


def chat_messages(instructions: str, log: Sequence[Message], edited: Edited) -> list[Message]:
    """What is sent: the instructions, then the log.

    Every call of a tool is followed by its result, a marked one where there is none in the log; a result
    without its call, and an answer that says nothing, are left out. An edited call stands as it was run.
    """
    return [{"role": "system", "content": instructions}, *_paired(_from_a_question(log), edited)]


def _from_a_question(log: Sequence[Message]) -> Sequence[Message]:
    """The log from a user's message on, where it was cut off in the middle: many models ask for that."""
    for index, message in enumerate(log):
        if message["role"] == "user":
            return log[index:] if any(m["role"] == "assistant" for m in log[:index]) else log
    return log


def _paired(log: Sequence[Message], edited: Edited) -> Iterator[Message]:
    for index, message in enumerate(log):
        if message["role"] == "assistant":
            yield from _assistant(message, _results(log, index + 1), edited)
        elif message["role"] != "tool":
            yield _kept(message, "role", "content", "name")


def _results(log: Sequence[Message], start: int) -> dict[str, Message]:
    """The results that follow an answer, up to the next one or to what the user says next."""
    results: dict[str, Message] = {}
    for index in range(start, len(log)):
        message = log[index]
        if message["role"] in ("user", "assistant"):
            break
        if message["role"] == "tool":
            results.setdefault(str(message.get("tool_call_id")), message)
    return results


def _assistant(message: Message, results: Mapping[str, Message], edited: Edited) -> Iterator[Message]:
    calls = [_call(call, edited) for call in message.get("tool_calls") or () if _is_call(call)]
    if calls:
        yield {**_kept(message, "role", "content", "name"), "tool_calls": calls}
    elif message["content"]:
        yield _kept(message, "role", "content", "name")
    for call in calls:
        result = results.get(call["id"], {"content": INTERRUPTED})
        yield {"role": "tool", "tool_call_id": call["id"], "content": result["content"] or ""}


def _is_call(call: Any) -> bool:
    """Whether it is one in the form that chat-completion APIs know: others may have stored it."""
    try:
        msgspec.convert(call, _Call)
    except msgspec.ValidationError:
        return False
    return True


class _Function(msgspec.Struct):
    name: str
    arguments: str


class _Call(msgspec.Struct):
    id: str
    function: _Function


def _call(call: dict[str, Any], edited: Edited) -> dict[str, Any]:
    function = _kept(call["function"], "name", "arguments")
    if (name := (call["id"], function["name"])) in edited:
        function["arguments"] = msgspec.json.encode(edited[name]).decode()
    return {"id": call["id"], "type": "function", "function": function}


def _kept(message: Mapping[str, Any], *names: str) -> Message:
    """Only what every server knows: some refuse a message with a field of another's."""
    return {name: message[name] for name in names if name in message}
