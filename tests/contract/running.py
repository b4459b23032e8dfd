"""A turn as the instance that runs it carries it on, and what somebody who follows it hears."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from runtime.config import Settings
from runtime.models import TurnEvent, TurnStatus
from runtime.store.follow.turn_follower import TurnFollower
from runtime.store.messages import new_messages
from runtime.store.records import SessionKey
from runtime.store.steady_clock import SteadyClock
from runtime.store.store import Store, open_store
from runtime.store.turn_events import NewEvent
from runtime.store.write.commands import CreateApproval
from runtime.store.write.outcomes import TurnWritten
from runtime.store.write.turn_commands import AdvanceTurn, Ending

# Longer than any test may take: what comes earlier was not found by looking again.
LONG = 60.0

# Each character of a text, and each other event, with the id that it ends at.
Heard = list[tuple[str, str]]


class Clock:
    """Shows the time that it is told; the time of day may also be set, which `monotonic` does not show."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 21, 12, tzinfo=UTC)
        self._passed = 0.0

    def __call__(self) -> datetime:
        return self.now

    def monotonic(self) -> float:
        return self._passed

    def pass_seconds(self, seconds: float) -> None:
        self._passed += seconds
        self.jump(seconds)

    def jump(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@asynccontextmanager
async def open_timed(url: str, clock: Clock, settings: Settings | None = None) -> AsyncIterator[Store]:
    """A store for which time passes as the clock says."""
    async with open_store(url, settings, clock=clock) as store:
        store._core.cleanup._steady = SteadyClock(clock, clock.monotonic)
        yield store


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def calling(*call_ids: str, **more: Any) -> dict[str, Any]:
    """An assistant's message that calls a tool under each of these ids."""
    function = {"name": "look", "arguments": '{"at":"the sky"}'}
    calls = [{"id": call_id, "type": "function", "function": function} for call_id in call_ids]
    return {"role": "assistant", "content": None, "tool_calls": calls, **more}


def escaped(text: str) -> str:
    """A text as it stands between the quotes of a JSON string."""
    return msgspec.json.encode(text).decode()[1:-1]


class Running:
    """A turn that a store runs, and where it stands."""

    def __init__(self, store: Store, written: TurnWritten) -> None:
        self.store, self.written = store, written

    @property
    def id(self) -> str:
        return self.written.turn.turn_id

    def step(self, *texts: str, messages: Sequence[Any] = (), **more: Any) -> AdvanceTurn:
        """The next step, not taken yet."""
        return AdvanceTurn(
            SessionKey("", self.written.session_id),
            self.id,
            self.store.turns.instance,
            self.written.beat,
            texts=tuple(map(escaped, texts)),
            messages=new_messages(messages),
            **more,
        )

    async def advance(self, *texts: str, **more: Any) -> TurnWritten:
        self.written = await self.store.turns.advance_turn(self.step(*texts, **more))
        return self.written

    async def position(self) -> tuple[int, int]:
        """The number of its last event, and the characters in it if it is text."""
        _, turn = await self.store.turns.turn_reader.get_turn(
            SessionKey("", self.written.session_id), self.id
        )
        return turn.last_event, turn.text_length

    async def end(self, status: TurnStatus = "completed") -> TurnWritten:
        return await self.advance(ending=Ending(status))


async def ask(store: Store, question: str = "Why?", session_id: str = "s") -> Running:
    """A turn that a question began."""
    return Running(store, await store.turns.start_turn(session_id, messages=[user(question)]))


async def end_in_calls(store: Store, *call_ids: str, waiting: Sequence[CreateApproval] = ()) -> None:
    """A turn that ended in calls of tools; some wait for a person."""
    running = await ask(store)
    await running.advance(messages=[calling(*call_ids)], approvals=tuple(waiting), ending=Ending("completed"))


def waits(call_id: str, *, expires_in: float | None = None) -> CreateApproval:
    return CreateApproval(SessionKey("", "s"), call_id, '"look"', '{"at":"the sky"}', expires_in=expires_in)


def note(text: str) -> NewEvent:
    """An event that is no text."""
    return NewEvent("message", msgspec.json.encode({"note": text}).decode())


async def next_events(follower: TurnFollower) -> list[TurnEvent]:
    """What comes next. Fails where nothing does, or the turn has ended."""
    async with asyncio.timeout(LONG / 2):
        events = await follower.events(LONG)
    assert events, events
    return events


async def hear_to(follower: TurnFollower, count: int) -> Heard:
    """What comes, until it is so much."""
    heard: Heard = []
    while len(heard) < count:
        heard += told(await next_events(follower))
    return heard


async def hear_all(follower: TurnFollower) -> list[TurnEvent]:
    """What comes, until the turn ends."""
    events: list[TurnEvent] = []
    async with asyncio.timeout(LONG / 2):
        while (more := await follower.events(LONG)) is not None:
            events += more
        assert await follower.events(LONG) is None, "what has ended stays ended"
    return events


async def follow_all(store: Store, turn_id: str, after: str | None = None) -> list[TurnEvent]:
    async with store.follow_turn("s", turn_id, after=after) as follower:
        return await hear_all(follower)


def told(events: Sequence[TurnEvent]) -> Heard:
    """What events say, however their text is cut."""
    return [each for event in events for each in _characters(event)]


def _characters(event: TurnEvent) -> Heard:
    data = msgspec.json.decode(event.data)
    if event.name != "message" or "token" not in data:
        return [(event.id, f"{event.name} {bytes(event.data).decode()}")]
    n, _, end = event.id.partition("-")
    assert (data["type"], data["is_final"]) == ("assistant_message", False)
    token = data["token"]
    return [(f"{n}-{int(end) - len(token) + place}", letter) for place, letter in enumerate(token, 1)]


def said(heard: Heard) -> str:
    """The text alone."""
    return "".join(letter for id, letter in heard if "-" in id)


def names(events: Sequence[TurnEvent]) -> list[str]:
    """What each event is, the pieces of text left out."""
    return [name for event in events if (name := _name(event, msgspec.json.decode(event.data)))]


def _name(event: TurnEvent, data: dict[str, Any]) -> str:
    return "" if "token" in data else str(data.get("type", event.name))


async def last_message(store: Store) -> dict[str, Any]:
    """The last message as a client sees it, its place and time left out."""
    (message,) = (await store.list_messages("s", last=1)).messages
    return {name: field for name, field in message.items() if name not in ("seq", "timestamp")}


async def data_of(store: Store, turn_id: str) -> list[Any]:
    """The data of the events of a turn that has ended."""
    return [msgspec.json.decode(event.data) for event in await follow_all(store, turn_id)]
