"""The worst bodies of a size, and every place of every route that takes one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count, islice, product
from string import ascii_letters
from typing import NamedTuple

# How many bytes a value has, a little less than a body may have.
SIZE = 8_300_000

Value = Callable[[int], bytes]


def _listed(item: bytes) -> Value:
    """A list of the same item."""
    return lambda size: b"[" + b",".join([item] * (size // (len(item) + 1))) + b"]"


def _repeated(text: bytes) -> Value:
    """A string."""
    return lambda size: b'"' + text * (size // len(text)) + b'"'


def _object_of(names: Callable[[], Iterator[str]], value: bytes) -> Value:
    def make(size: int) -> bytes:
        length = len(next(names())) + len(value) + 4
        return (
            b"{" + b",".join(b'"%b":%b' % (n.encode(), value) for n in islice(names(), size // length)) + b"}"
        )

    return make


def _short_names() -> Iterator[str]:
    return map("".join, product(ascii_letters, repeat=4))


def _numbered_names() -> Iterator[str]:
    return (f"{n:x}" for n in count(1 << 24))


def _same_name() -> Iterator[str]:
    return (name for name in iter(lambda: "a", ""))


# By name; each makes a value of about so many bytes.
LISTS: dict[str, Value] = {
    "large floats": _listed(b"1e308"),
    "short floats": _listed(b"1e1"),
    "lists 40 deep": _listed(b"[" * 40 + b"]" * 40),
    "objects 40 deep": _listed(b'{"":' * 40 + b"0" + b"}" * 40),
    "empty lists": _listed(b"[]"),
    "empty objects": _listed(b"{}"),
    "one deep list": lambda size: b"[" * (size // 2) + b"]" * (size // 2),
    "numbers of 4300 digits": _listed(b"9" * 4300),
    "numbers of 5000 digits": _listed(b"9" * 5000),
    "numbers of 30 digits": _listed(b"9" * 30),
    "one long float": lambda size: b"[0." + b"3" * (size - 4) + b"]",
    "short strings": _listed(b'"x"'),
    "nulls": _listed(b"null"),
    "an error at the end": lambda size: _listed(b"{}")(size)[:-1] + b",}",
    "half a character at the end": lambda size: _listed(b"{}")(size)[:-1] + b',"\\ud800"]',
    "no UTF-8 at the end": lambda size: _listed(b"{}")(size)[:-1] + b',"\xff"]',
    "never closed": lambda size: _listed(b"{}")(size)[:-1],
    "spaces": lambda size: b"[" + b" " * (size - 2) + b"]",
}
STRINGS: dict[str, Value] = {
    "one string": _repeated(b"x"),
    "one string of escapes": _repeated(b"\\u00e9"),
    "one string of pairs": _repeated(b"\\ud83d\\ude00"),
    "one string of controls": _repeated(b"\\u0001"),
    "one string of line feeds": _repeated(b"\\n"),
}
OBJECTS: dict[str, Value] = {
    "short names": _object_of(_short_names, b"0"),
    "numbered names": _object_of(_numbered_names, b"1e308"),
    "one name again and again": _object_of(_same_name, b"1"),
    "a list of floats": lambda size: b'{"a":%b}' % LISTS["large floats"](size),
    "a list of lists": lambda size: b'{"a":%b}' % LISTS["lists 40 deep"](size),
    "an error at the end": lambda size: b'{"a":%b}' % LISTS["an error at the end"](size),
    "half a character at the end": lambda size: b'{"a":%b}' % LISTS["half a character at the end"](size),
}
# A list of objects is what a turn takes as the content of a message.
PARTS: dict[str, Value] = {
    f"a part: {name}": (lambda size, value=value: b'[{"type":"text","text":"hi","a":%b}]' % value(size))
    for name, value in OBJECTS.items()
}
MESSAGES: dict[str, Value] = {
    "many short messages": _listed(b'{"role":"user"}'),
    "many messages": _listed(b'{"role":"user","content":"hello"}'),
    "many calls": _listed(b'{"role":"assistant","tool_calls":[{"id":"a"}],"name":"x","metadata":{"a":1.5}}'),
    "a wrong one at the end": lambda size: _listed(b'{"role":"user"}')(size)[:-1] + b',{"role":"robot"}]',
    "numbers": _listed(b"1"),
}


class Place(NamedTuple):
    """A place in the body of a route: what stands around a value there, and which values may."""

    method: str
    path: str
    before: bytes
    after: bytes
    values: dict[str, Value]

    def body(self, name: str, size: int = SIZE) -> bytes:
        """A body with the value of this name."""
        return self.before + self.values[name](size) + self.after


ANY = {**LISTS, **STRINGS, **{f"an object: {name}": value for name, value in OBJECTS.items()}}
TURN = b'{"session_id":"s","message":{'

# What a call of a tool, an approval and a session are known by: `s`, `c`.
PLACES: dict[str, Place] = {
    "content": Place(
        "POST", "/sessions/s/messages", b'{"role":"user","content":', b"}", {**LISTS, **STRINGS}
    ),
    "unknown field": Place("POST", "/sessions/s/messages", b'{"role":"user","a":', b"}", ANY),
    "unknown fields": Place(
        "POST",
        "/sessions/s/messages",
        b"",
        b"}",
        {"of a message": lambda size: OBJECTS["short names"](size)[:-1] + b',"role":"user"'},
    ),
    "tool calls": Place("POST", "/sessions/s/messages", b'{"role":"assistant","tool_calls":', b"}", LISTS),
    "message metadata": Place("POST", "/sessions/s/messages", b'{"role":"user","metadata":', b"}", OBJECTS),
    "append": Place("POST", "/sessions/s/messages", b'{"messages":', b"}", {**MESSAGES, **LISTS}),
    "replace": Place("PUT", "/sessions/s/messages", b'{"messages":', b"}", {**MESSAGES, **LISTS}),
    "save": Place("POST", "/sessions/saved", b"", b"", {**MESSAGES, **LISTS}),
    "create": Place("POST", "/sessions", b'{"messages":', b"}", {**MESSAGES, **LISTS}),
    "session metadata": Place("POST", "/sessions", b'{"metadata":', b"}", OBJECTS),
    "ensure": Place("PUT", "/sessions/ensured", b'{"metadata":', b"}", OBJECTS),
    "update": Place("PATCH", "/sessions/s", b'{"metadata":', b"}", OBJECTS),
    "fork": Place("POST", "/sessions/s/fork", b'{"metadata":', b"}", OBJECTS),
    "title": Place("PATCH", "/sessions/s", b'{"title":', b"}", ANY),
    "switch": Place("POST", "/sessions/s/agent", b'{"agent":"coder","metadata":', b"}", OBJECTS),
    "context": Place("PATCH", "/sessions/s/context", b'{"metadata":', b"}", OBJECTS),
    "arguments": Place(
        "POST", "/sessions/s/approvals", b'{"call_id":"n","tool_name":"t","arguments":', b"}", ANY
    ),
    "edit": Place(
        "POST", "/sessions/s/approvals/c/decision", b'{"decision":"edit","modified_arguments":', b"}", ANY
    ),
    "cleanup": Place("POST", "/maintenance/cleanup", b'{"max_age_hours":', b"}", ANY),
    "user message": Place(
        "POST",
        "/agent/message/stream",
        TURN + b'"type":"user_message","content":',
        b"}}",
        {**LISTS, **STRINGS},
    ),
    "tool result": Place(
        "POST", "/agent/message/stream", TURN + b'"type":"tool_result","call_id":"c","result":', b"}}", ANY
    ),
    "tool error": Place(
        "POST", "/agent/message/stream", TURN + b'"type":"tool_result","call_id":"c","error":', b"}}", ANY
    ),
    "verdict": Place(
        "POST",
        "/agent/message/stream",
        TURN + b'"type":"hitl_decision","call_id":"c","decision":"edit","modified_arguments":',
        b"}}",
        ANY,
    ),
    "handover": Place(
        "POST",
        "/agent/message/stream",
        TURN + b'"type":"switch_agent","agent_type":"coder","content":',
        b"}}",
        {**PARTS, **LISTS, **STRINGS},
    ),
}
