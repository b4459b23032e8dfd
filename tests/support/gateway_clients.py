"""The clients of the earlier service: its gateway, and how the IDE, the command line and the benchmark client
read the frames that the gateway passes on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientResponse

from tests.api.serving import Client

Frame = dict[str, Any]

KEY = "change-me-in-production"
HEADERS = {"X-Internal-Auth": KEY, "Accept": "*/*", "User-Agent": "python-httpx/0.28"}

# The members of every frame of the IDE, most of them null.
IDE_KEYS = (
    *("type", "content", "role", "is_final", "call_id", "tool_name", "arguments", "requires_approval"),
    *("result", "error", "agent_type", "from_agent", "to_agent", "reason", "metadata"),
)
# The types that the IDE insists on in a frame that it gets; null is fine for each.
IDE_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("content", "role", "call_id", "tool_name", "error", "agent_type"), str),
    **dict.fromkeys(("from_agent", "to_agent", "reason"), str),
    **dict.fromkeys(("is_final", "requires_approval"), bool),
    **dict.fromkeys(("arguments", "result", "metadata"), dict),
}


def ide(**members: Any) -> Frame:
    """A frame as the IDE sends it."""
    return {**dict.fromkeys(IDE_KEYS), **members}


def ide_user(content: str) -> Frame:
    return ide(type="user_message", content=content, role="user")


def ide_result(call_id: str, tool_name: str, result: Any) -> Frame:
    return ide(type="tool_result", call_id=call_id, tool_name=tool_name, result=result)


def ide_error(call_id: str, tool_name: str, error: str) -> Frame:
    return ide(type="tool_result", call_id=call_id, tool_name=tool_name, error=error)


def ide_switch(agent_type: str, content: str) -> Frame:
    return ide(type="switch_agent", agent_type=agent_type, content=content)


@dataclass
class Gateway:
    """One WebSocket of the gateway: sends each frame on and reads its stream as the gateway does."""

    client: Client
    session_id: str | None

    async def send(self, frame: Frame) -> list[Frame]:
        """The frames that come back for one frame."""
        body = (
            {"message": frame}
            if self.session_id is None
            else {"session_id": self.session_id, "message": frame}
        )
        async with self.client.post("/agent/message/stream", json=body, headers=HEADERS) as response:
            if response.status != 200:
                # The gateway of 6a3e6da stays deaf from here on.
                raise AssertionError(f"status {response.status}: {await response.text()}")
            frames = [frame async for frame in read_frames(response)]
        for each in frames:
            if each.get("type") == "session_info":
                self.session_id = each["session_id"]
        return frames

    async def get(self, path: str) -> Any:
        """What the gateway passes on of a reply: it must be JSON, and a 2xx."""
        async with self.client.get(path, headers=HEADERS) as response:
            assert response.status == 200, await response.text()
            return json.loads(await response.read())


async def read_frames(response: ClientResponse) -> AsyncIterator[Frame]:
    """Read the stream line by line, as the gateway does: without a parser of server-sent events."""
    event = None
    async for raw in response.content:
        line = raw.decode().rstrip("\r\n")
        if not line:
            event = None
        elif line.startswith("event: "):
            event = line.removeprefix("event: ")
            if event == "done":
                return
        elif line.startswith("data: "):
            data = line.removeprefix("data: ")
            if data == "[DONE]":
                return
            frame = json.loads(data)
            assert isinstance(frame, dict), f"a list or a number breaks the gateway's stream: {data}"
            yield {name: value for name, value in frame.items() if value is not None or event != "message"}


def bubbles(frames: Sequence[Frame]) -> list[tuple[str, str]]:
    """What the IDE shows: the type of each bubble, and its text. A call asks first where its text says so."""
    return [_bubble(frame) for frame in frames]


def _bubble(frame: Frame) -> tuple[str, str]:
    kind = frame.get("type")
    assert isinstance(kind, str), f"the IDE throws this away: {frame}"
    for name, wanted in IDE_TYPES.items():
        value = frame.get(name)
        assert value is None or isinstance(value, wanted), f"the IDE throws this away: {frame}"
    if kind == "tool_call":
        return kind, f"{frame['tool_name']} {frame['call_id']}" + ("?" if frame["requires_approval"] else "")
    if kind == "agent_switched":
        return kind, f"{frame['metadata']['from_agent']} → {frame['metadata']['to_agent']}"
    text = frame.get("content") or (frame.get("error") if kind == "error" else None) or ""
    assert text, f"the IDE shows an empty bubble for this: {frame}"
    return kind, text


def printed(frames: Sequence[Frame]) -> str:
    """What the command-line chat prints: the tokens, and the texts of errors."""
    shown = []
    for frame in frames:
        if frame["type"] == "assistant_message":
            shown.append(frame.get("token") or "")
        elif frame["type"] == "error":
            shown.append(frame["content"])
    return "".join(shown)


def task_of(frames: Sequence[Frame]) -> tuple[str, bool]:
    """What the benchmark client makes of a turn: the text up to the end of its task, and whether it ended."""
    text = ""
    for place, frame in enumerate(frames):
        if frame["type"] == "assistant_message":
            text += frame.get("token", "")
            if frame["is_final"]:
                assert place == len(frames) - 1, "the task ended, and more came"
                return text, True
    return text, False
