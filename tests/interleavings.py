"""Generated interleavings of every command over a few sessions: existing, deleted and missing ones.

A step says only what no state is needed for. `Interleaving.request` makes it a request that fits what the
model holds: the version that stands, a history that is kept in part, an earlier request once more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Literal, NamedTuple, TypeVar

from hypothesis import strategies as st
from msgspec import UNSET, structs

from runtime.store import commands
from runtime.store.commands import Command, IdempotencyKey, NewMessage, Request, SessionKey, fingerprint
from runtime.store.messages import new_messages
from tests.model import Model

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
EXISTING, DELETED, MISSING = SessionKey("", "a"), SessionKey("", "b"), SessionKey("", "c")
NAMESAKE, TO_BE_NAMED = SessionKey("ann", "a"), SessionKey("", "")

RAW: list[dict[str, Any]] = [
    {"role": "user", "content": "Why is the sky blue?\nTell me."},
    {"role": "user", "content": "And at dusk? \u0000 🌇", "token_count": 5},
    {"role": "user", "content": " \n "},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]},
    {"role": "system", "content": "Be brief.", "timestamp": "2026-11-20T08:30:00.25+01:00"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call-1", "function": {"name": "look", "arguments": "{}"}}],
        "token_count": 7,
    },
    {"role": "tool", "content": "rain", "tool_call_id": "call-1", "name": "look"},
    {"role": "assistant", "content": "Rain.", "metadata": {"n": 2**60 + 1}, "refusal": None, "x": [1.5]},
]
Drawn = TypeVar("Drawn")

POOL = new_messages(RAW)
_RAW_OF = {structs.replace(message, timestamp=None): raw for message, raw in zip(POOL, RAW, strict=True)}


def raw_message(message: NewMessage) -> dict[str, Any]:
    """A message of the pool as a client sends it, at the time that it bears here."""
    raw = dict(_RAW_OF[structs.replace(message, timestamp=None)])
    raw.pop("timestamp", None)
    return raw if message.timestamp is None else {**raw, "timestamp": message.timestamp.isoformat()}


class Step(NamedTuple):
    """What is asked, before it meets a state. `ends` says that the batch ends behind it."""

    command: Command
    minute: int
    expects: Literal["nothing", "current", "stale"]
    key: str | None
    again: bool
    kept: int
    ends: bool


KEYS = (EXISTING, EXISTING, EXISTING, DELETED, MISSING, NAMESAKE)
TITLES = (None, '"A title"', '""')
OBJECTS = ("{}", '{"a":[1,null]}', '{"b":"\\u0000"}')
AGENTS = ("orchestrator", "coder", "ask")
CALL_IDS = ("call-1", "call-2")
MINUTES = 12


class Chance:
    """Draws the parts of a step."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self.of = self._random.choice
        self.key = self.of(KEYS)

    def number(self, most: int) -> int:
        return self._random.randint(0, most)

    def some(self, values: Sequence[Any]) -> list[Any]:
        """At least three of these, in any number."""
        return self._random.sample(values, self._random.randint(3, len(values)))

    def yes(self) -> bool:
        return self.of((True, False))

    def time(self) -> datetime:
        return time(self.number(MINUTES))

    def messages(self) -> tuple[NewMessage, ...]:
        return tuple(self.of(POOL) for _ in range(self.number(3)))

    def given(self, values: Sequence[Any]) -> Any:
        return self.of((UNSET, self.of(values)))


def time(minute: int) -> datetime:
    return NOON + timedelta(minutes=minute)


def _create_session(chance: Chance) -> Command:
    return commands.CreateSession(
        chance.of((chance.key, chance.key, TO_BE_NAMED)),
        title=chance.of(TITLES),
        description=chance.of(TITLES),
        metadata=chance.of(OBJECTS),
        agent=chance.of(AGENTS),
        messages=chance.messages(),
        if_missing=chance.yes(),
    )


def _update_session(chance: Chance) -> Command:
    return commands.UpdateSession(
        chance.key,
        title=chance.given(TITLES),
        description=chance.given(TITLES),
        metadata=chance.given(OBJECTS),
        is_active=chance.given((True, False)),
    )


def _delete_session(chance: Chance) -> Command:
    return commands.DeleteSession(chance.key, hard=chance.yes())


def clean_up(chance: Chance) -> Command:
    """What the cleanup asks for; it is no method of the store."""
    if chance.yes():
        return commands.DeleteSession(chance.key, idle_since=chance.time())
    return commands.DeleteSession(chance.key, hard=True, deleted_since=chance.time())


def switch_agent(chance: Chance) -> Command:
    return commands.SwitchAgent(chance.key, chance.of(AGENTS), chance.of(TITLES), chance.of(OBJECTS))


def _create_approval(chance: Chance) -> Command:
    return commands.CreateApproval(
        chance.key,
        chance.of(CALL_IDS),
        tool_name='"look"',
        arguments=chance.of(OBJECTS),
        reason=chance.of(TITLES),
        expires_in=chance.of((None, 0.0, 120.0, 600.0)),
    )


def _decide_approval(chance: Chance) -> Command:
    return commands.DecideApproval(
        chance.key,
        chance.of(CALL_IDS),
        decision=chance.of(("approve", "edit", "reject")),
        modified_arguments=chance.of((None, *OBJECTS)),
        feedback=chance.of(TITLES),
    )


COMMANDS: tuple[Callable[[Chance], Command], ...] = (
    _create_session,
    _update_session,
    _delete_session,
    lambda chance: commands.RestoreSession(chance.key),
    # Messages twice: they are what a conversation is mostly made of.
    *(lambda chance: commands.AppendMessages(chance.key, chance.messages()),) * 2,
    *(lambda chance: commands.ReplaceMessages(chance.key, chance.messages(), chance.yes()),) * 2,
    *(lambda chance: commands.TruncateMessages(chance.key, chance.number(9)),) * 2,
    switch_agent,
    lambda chance: commands.UpdateContext(chance.key, chance.of(OBJECTS)),
    _create_approval,
    _decide_approval,
    lambda chance: commands.DeleteApproval(chance.key, chance.of(CALL_IDS)),
)


def draw_step(chance: Chance, command: Command) -> Step:
    return Step(
        command=command,
        minute=chance.number(MINUTES),
        expects=chance.of(("nothing", "nothing", "nothing", "nothing", "current", "stale")),
        key=chance.of((None, None, None, None, "key-1", "key-2")),
        again=chance.yes(),
        kept=chance.number(4),
        ends=chance.of((False, False, True)),
    )


def lists_of(
    draw: Callable[[Chance], Drawn], *, min_size: int, max_size: int
) -> st.SearchStrategy[list[Drawn]]:
    """Lists of what `draw` makes of chance.

    To hypothesis each element is one number: to draw its parts one by one takes ten times as long.
    """
    seeds = st.integers(0, 2**24)
    return st.lists(seeds.map(lambda seed: draw(Chance(seed))), min_size=min_size, max_size=max_size)


def interleavings(
    *more: Callable[[Chance], Command], min_size: int = 8, max_size: int = 40
) -> st.SearchStrategy[list[Step]]:
    """Lists of steps with any command, and with `more` ones.

    Each list has a few kinds of commands only: what they do to each other comes up sooner that way
    ("swarm testing", Groce et al., 2012).
    """

    def with_some(seed: int) -> st.SearchStrategy[list[Step]]:
        makers = Chance(seed).some((*COMMANDS, *more))
        return lists_of(
            lambda chance: draw_step(chance, chance.of(makers)(chance)), min_size=min_size, max_size=max_size
        )

    return st.integers(0, 2**24).flatmap(with_some)


OPENING: list[Command] = [
    commands.CreateSession(EXISTING, messages=POOL[:3]),
    commands.CreateSession(DELETED, title='"Gone"', messages=POOL[:1]),
    commands.DeleteSession(DELETED),
]


class Interleaving:
    """Turns steps into requests, one after the other, each fit for what the model then holds."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._under_key: dict[str, Command] = {}
        self._named = 0

    def request(self, step: Step) -> Request:
        command = step.command
        if isinstance(command, commands.ReplaceMessages):
            command = self._keep(command, step)
        name = None if isinstance(command, commands.ForgetOld) else step.key
        if name is not None:
            earlier = self._under_key.setdefault(name, command)
            command = earlier if step.again else command
        key = self._name(command.key)
        idempotency = None if name is None else IdempotencyKey(name, fingerprint(command))
        if_match = {"nothing": None, "current": 0, "stale": -1}[step.expects]
        if if_match is not None:
            if_match += self.model.version(key)
        return Request(command, key, time(step.minute), if_match, idempotency)

    def _keep(self, command: commands.ReplaceMessages, step: Step) -> commands.ReplaceMessages:
        """Begin with some of the history that stands; a client may name the times it was given."""
        session = self.model.sessions.get(command.key)
        stored = session.messages[: step.kept] if session is not None else []
        stamped = [
            structs.replace(each.message, timestamp=each.timestamp if step.again else None) for each in stored
        ]
        return structs.replace(command, messages=(*stamped, *command.messages))

    def _name(self, key: SessionKey) -> SessionKey:
        if key.session_id:
            return key
        self._named += 1
        return SessionKey(key.owner, f"named-{self._named}")


def opening() -> list[Request]:
    """What stands before the first step: a session, a deleted one, and nothing else."""
    return [Request(command, command.key, NOON) for command in OPENING]
