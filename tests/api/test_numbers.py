"""Numbers come back as they came, whatever their text: through every route that takes and gives them.

On both databases, from bodies that are parsed where they are read and from those that another process parses.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from runtime.api.parser_process import MAX_INLINE
from tests.support.api_server import Client, Json, serving
from tests.support.model_server import model_server, says

pytestmark = pytest.mark.slow

JSON = {"Content-Type": "application/json"}
MESSAGES = "/sessions/s/messages"
PADDING = " " * (MAX_INLINE + 1)
# Where doubles round, overflow, underflow or have another text, and integers beyond 64 bits.
ODD = [
    "9007199254740993.0",
    "0.12345678901234567890123",
    "1e400",
    "-1E-400",
    "1.50",
    "0.0",
    "-0.0",
    "1e5",
    "1E+05",
    "18446744073709551616",
    "-9223372036854775809",
    "123456789012345678901234567890",
]


class Number(str):
    """A number, as its text: no string is equal to it."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Number) and str(self) == str(other)

    __hash__ = str.__hash__


def decode(text: str) -> Json:
    """A JSON value with its numbers as texts."""
    return json.loads(text, parse_float=Number, parse_int=Number)


def json_object(**fields: str) -> str:
    """An object, of the texts of its values."""
    return "{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}"


# -0 is an integer for JSON, and 0 for Python and for JavaScript alike.
numbers = st.from_regex(
    r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,4})?", fullmatch=True
).filter(lambda text: text != "-0" and text.isascii())
values = st.recursive(
    numbers | st.sampled_from(ODD) | st.sampled_from(["null", "true", '"1.50"', '"é"']),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: f"[{','.join(items)}]")
        | st.dictionaries(st.sampled_from("abc"), inner, max_size=3).map(lambda fields: json_object(**fields))
    ),
    max_leaves=12,
)


def drawn(count: int) -> list[str]:
    """Texts of JSON values with numbers, the same each time."""
    found = [f"[{','.join(ODD)}]"]

    @settings(max_examples=count, phases=[Phase.generate], database=None)
    @given(values)
    def draw(value: str) -> None:
        found.append(value)

    draw()
    return found


VALUES = drawn(12)


@pytest.fixture(params=["", PADDING], ids=["inline", "apart"])
def padding(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Asker:
    """Sends the text of bodies, and decodes replies with numbers as texts."""

    def __init__(self, client: Client, padding: str) -> None:
        self._client = client
        self._padding = padding

    async def send(self, method: str, path: str, body: str, **headers: str) -> Json:
        data = body + self._padding
        async with self._client.request(method, path, data=data, headers={**JSON, **headers}) as response:
            text = await response.text()
            assert response.status < 300, text
            return decode(text) if response.content_type == "application/json" else text

    async def get(self, path: str) -> Json:
        async with self._client.get(path) as response:
            return decode(await response.text())

    async def send_twice(self, method: str, path: str, body: str, key: str) -> list[Json]:
        """The replies to a request and to its repeat."""
        return [await self.send(method, path, body, **{"Idempotency-Key": key}) for _ in range(2)]


@pytest.fixture
async def asker(client: Client, padding: str) -> Asker:
    return Asker(client, padding)


def in_object(value: str) -> tuple[str, Json]:
    text = json_object(v=value)
    return text, decode(text)


async def test_metadata_of_sessions(asker: Asker) -> None:
    for number, value in enumerate(VALUES):
        text, expected = in_object(value)
        body = json_object(session_id=f'"s{number}"', metadata=text)
        replies = await asker.send_twice("POST", "/sessions", body, f"create-{number}")
        replies.append(await asker.send("PATCH", f"/sessions/s{number}", json_object(metadata=text)))
        replies.append(await asker.send("PUT", f"/sessions/s{number}", "{}"))
        replies.append(await asker.get(f"/sessions/s{number}"))
        replies.append((await asker.get("/sessions?limit=1"))["sessions"][0])
        patched = without_nulls(expected)
        assert [reply["metadata"] for reply in replies] == [expected] * 2 + [patched] * 4


def without_nulls(value: Any) -> Any:
    """What a patch leaves of an object that it is merged with: null takes a member away."""
    if not isinstance(value, dict):
        return value
    return {name: without_nulls(member) for name, member in value.items() if member is not None}


async def test_contexts_and_switches(asker: Asker) -> None:
    await asker.send("POST", "/sessions", '{"session_id":"s"}')
    for number, value in enumerate(VALUES):
        text, expected = in_object(value)
        body = json_object(metadata=text)
        replies = await asker.send_twice("PATCH", "/sessions/s/context", body, f"context-{number}")
        replies.append(await asker.get("/sessions/s/context"))
        body = json_object(agent=f'"agent-{number}"', metadata=text)
        await asker.send("POST", "/sessions/s/agent", body)
        replies.append((await asker.get("/sessions/s/switches?limit=1"))["switches"][0])
        replies.append((await asker.get("/agents/s/current"))["agent_history"][-1])
        replies.append((await asker.get("/sessions/s/history"))["agent_history"][-1])
        assert [reply["metadata"] for reply in replies] == [expected] * 6


def message(value: str) -> str:
    parts = f"[{value}]"
    return json_object(
        role='"assistant"', content=parts, metadata=json_object(v=value), tool_calls=parts, other=value
    )


FIELDS = ("content", "metadata", "tool_calls", "other")


def fields_of(message: Json) -> Json:
    return {name: message[name] for name in FIELDS}


async def test_messages(asker: Asker, client: Client) -> None:
    await asker.send("POST", "/sessions", '{"session_id":"s"}')
    listed = ",".join(map(message, VALUES))
    expected = [fields_of(decode(message(value))) for value in VALUES]

    async def check_stored() -> None:
        page = await asker.get(f"{MESSAGES}?limit=1000")
        assert list(map(fields_of, page["messages"])) == expected
        history = await asker.get("/sessions/s/history")
        assert [(m["content"], m["tool_calls"], m["other"]) for m in history["messages"]] == [
            (m["content"], m["tool_calls"], m["other"]) for m in expected
        ]

    await asker.send("POST", MESSAGES, json_object(messages=f"[{listed}]"))
    await check_stored()
    async with client.get("/sessions/s/events?after=0") as stream:
        lines = [(await stream.content.readline()).decode() for _ in range(3)]
    assert [fields_of(data) for line in lines for data in data_of(line)] == expected[:1]
    same = await asker.send("PUT", MESSAGES, json_object(messages=f"[{listed}]"))
    assert [receipt["seq"] for receipt in same["messages"]] == [Number(n + 1) for n in range(len(VALUES))]
    await asker.send("PUT", MESSAGES, '{"messages":[]}')
    await asker.send("POST", "/sessions/s", f"[{listed}]")
    await check_stored()


async def test_approvals(asker: Asker) -> None:
    await asker.send("POST", "/sessions", '{"session_id":"s"}')
    for number, value in enumerate(VALUES):
        expected = decode(value)
        body = json_object(call_id=f'"c{number}"', tool_name='"t"', arguments=value)
        replies = await asker.send_twice("POST", "/sessions/s/approvals", body, f"approval-{number}")
        replies += (await asker.get("/sessions/s/pending-approvals"))["pending_approvals"]
        assert [reply["arguments"] for reply in replies] == [expected] * 3
        edit = json_object(decision='"edit"', modified_arguments=json_object(v=value))
        path = f"/sessions/s/approvals/c{number}/decision"
        replies = await asker.send_twice("POST", path, edit, f"decision-{number}")
        replies.append((await asker.get("/sessions/s/approvals?status=edited"))["approvals"][-1])
        found = [(reply["arguments"], reply["modified_arguments"]) for reply in replies]
        assert found == [(expected, {"v": expected})] * 3


async def test_turns(database_url: str, padding: str) -> None:
    script = [says("Well.") for _ in range(2 * len(VALUES))]
    async with model_server(script) as model, serving(database_url, llm_url=model.url) as client:
        asker = Asker(client, padding)
        for number, value in enumerate(VALUES):
            content = f"[{json_object(type=TEXT, text=TEXT, v=value)}]"
            await asker.send("POST", *turn("user_message", content=content))
            user = (await asker.get(f"{MESSAGES}?last=1&role=user"))["messages"][0]
            assert user["content"] == decode(content)
            call_id = f'"c{number}"'
            body = json_object(call_id=call_id, tool_name='"t"', arguments="{}")
            await asker.send("POST", "/sessions/s/approvals", body)
            edit = {"decision": '"edit"', "modified_arguments": json_object(v=value)}
            events = await asker.send("POST", *turn("hitl_decision", call_id=call_id, **edit))
            calls = [data for data in data_of(events) if data.get("type") == "tool_call"]
            assert [data["arguments"] for data in calls] == [{"v": decode(value)}]
            call_id = f'"r{number}"'
            called = f"[{json_object(id=call_id, function=FUNCTION)}]"
            await asker.send("POST", MESSAGES, json_object(role='"assistant"', tool_calls=called))
            await asker.send("POST", *turn("tool_result", call_id=call_id, result=json_object(v=value)))
            stored = (await asker.get(f"{MESSAGES}?last=1&role=tool"))["messages"][0]
            assert decode(stored["content"]) == {"v": decode(value)}
        assert len(model.requests) == 2 * len(VALUES)


TEXT, FUNCTION = '"text"', '{"name":"t","arguments":"{}"}'


def turn(kind: str, **fields: str) -> tuple[str, str]:
    message = json_object(type=f'"{kind}"', **fields)
    return "/agent/message/stream", json_object(session_id='"s"', message=message)


def data_of(events: str) -> list[Any]:
    lines = (line.removeprefix("data: ") for line in events.splitlines() if line.startswith("data: "))
    return [data for line in lines if {"type", "role"} & (data := decode(line)).keys()]
