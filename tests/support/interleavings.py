"""Generated interleavings of every command over a few sessions: existing, deleted and missing ones.

A step says only what no state is needed for. `Interleaving.request` makes it a request that fits what the
model holds: the version that stands, a history that is kept in part, an earlier request once more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar

from hypothesis import strategies as st
from msgspec import structs

from runtime.store.records import SessionKey
from runtime.store.write import commands
from runtime.store.write.commands import Command, IdempotencyKey, Lease, Request, fingerprint
from runtime.store.write.turn_commands import StartTurn
from tests.reference.store import Model
from tests.reference.turns import HERE
from tests.support.generated_turns import ELSEWHERE, fitted
from tests.support.random_values import (
    AGENTS,
    CALL_IDS,
    DELETED,
    EXISTING,
    MINUTES,
    NOON,
    OBJECTS,
    PATCHES,
    POOL,
    TITLES,
    TO_BE_NAMED,
    Chance,
    time,
)

Drawn = TypeVar("Drawn")


class Step(NamedTuple):
    """What is asked, before it meets a state. `ends` says that the batch ends behind it."""

    command: Command
    minute: int
    expects: Literal["nothing", "current", "stale"]
    key: str | None
    again: bool
    kept: int
    ends: bool


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
        metadata=chance.given(PATCHES),
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


def create_approval(chance: Chance) -> Command:
    return commands.CreateApproval(
        chance.key,
        chance.of(CALL_IDS),
        tool_name='"look"',
        arguments=chance.of(OBJECTS),
        reason=chance.of(TITLES),
        expires_in=chance.of((None, 0.0, 120.0, 600.0)),
    )


def decide_approval(chance: Chance) -> Command:
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
    create_approval,
    decide_approval,
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
        self._named = self._turns = 0

    def request(self, step: Step) -> Request:
        command = step.command
        if isinstance(command, commands.ReplaceMessages):
            command = self._keep(command, step)
        command = fitted(command, self.model, step.kept)
        name = None if isinstance(command, (commands.ForgetOld, commands.EraseRows)) else step.key
        if name is not None:
            earlier = self._under_key.setdefault(name, command)
            command = earlier if step.again else command
        key = self._name(command.key)
        idempotency = None if name is None else IdempotencyKey(name, fingerprint(command))
        if_match = {"nothing": None, "current": 0, "stale": -1}[step.expects]
        if if_match is not None:
            if_match += self.model.version(key)
        lease = self._lease(step) if isinstance(command, StartTurn) else None
        return Request(command, key, time(step.minute), if_match, idempotency, lease)

    def _lease(self, step: Step) -> Lease:
        self._turns += 1
        return Lease(f"turn-{self._turns}", ELSEWHERE if step.kept == 0 else HERE)

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
