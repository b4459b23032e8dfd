"""Generated commands about turns, for the interleavings of all commands."""

from __future__ import annotations

from msgspec import structs

from runtime.store.messages import NewMessage, new_messages
from runtime.store.turn_events import NewEvent
from runtime.store.write.commands import Command, CreateApproval
from runtime.store.write.turn_commands import (
    AdvanceTurn,
    CallVerdict,
    Ending,
    InterruptTurn,
    StartTurn,
    StopTurn,
    ToolResult,
)
from tests.chance import AGENTS, CALL_IDS, OBJECTS, TITLES, Chance
from tests.model import Model
from tests.turn_model import HERE

ELSEWHERE = "elsewhere"
TEXTS = ("a", "bc", "\\n", "\\u0000", "🌇", "", "x" * 1500)
EVENTS = (NewEvent("message", '{"note":1}'), NewEvent("message", '{"note":2}'))
ENDINGS = (
    *(None,) * 5,
    Ending("completed"),
    Ending("stopped"),
    Ending("failed", '"the model fell silent"', "model_timeout"),
)


def calling(*call_ids: str) -> NewMessage:
    calls = [{"id": id, "function": {"name": "look", "arguments": "{}"}} for id in call_ids]
    return new_messages([{"role": "assistant", "content": None, "tool_calls": calls, "token_count": 3}])[0]


CALLING = (calling("call-1"), calling("call-2"), calling("call-1", "call-2"))


def start_turn(chance: Chance) -> Command:
    """A turn of any kind; those of the user more often than not."""
    kind = chance.of(("user", "user", "agent", "both", "result", "result", "verdict", "verdict"))
    return StartTurn(
        chance.key,
        messages=(*chance.messages(), chance.of(CALLING)) if kind in ("user", "both") else (),
        agent=chance.of(AGENTS) if kind in ("agent", "both") else None,
        result=_result(chance) if kind == "result" else None,
        verdict=_verdict(chance) if kind == "verdict" else None,
    )


def _result(chance: Chance) -> ToolResult:
    return ToolResult(chance.of(CALL_IDS), '"rain"', chance.of((None, '"gaze"')), chance.yes())


def _verdict(chance: Chance) -> CallVerdict:
    decision = chance.of(("approve", "edit", "reject", "reject"))
    return CallVerdict(chance.of(CALL_IDS), decision, chance.of((None, *OBJECTS)), chance.of(TITLES))


def advance_turn(chance: Chance) -> Command:
    """A step of a turn; `fitted` says which turn it is, and where it stands."""
    approval = CreateApproval(
        chance.key, chance.of(CALL_IDS), '"look"', "{}", expires_in=chance.of((None, 120.0))
    )
    return AdvanceTurn(
        chance.key,
        "turn-0",
        chance.of((HERE, ELSEWHERE)),
        0,
        texts=tuple(chance.of(TEXTS) for _ in range(chance.number(3))),
        messages=chance.of(((), (), *((each,) for each in CALLING))),
        approvals=chance.of(((), (approval,))),
        agent=chance.of((None, None, *AGENTS)),
        reason=chance.of(TITLES),
        events=chance.of(((), EVENTS[:1], EVENTS)),
        input_tokens=chance.number(9),
        output_tokens=chance.number(9),
        ending=chance.of(ENDINGS),
    )


def stop_turn(chance: Chance) -> Command:
    return StopTurn(chance.key, "turn-0")


def interrupt_turn(chance: Chance) -> Command:
    return InterruptTurn(chance.key, "turn-0", chance.number(3))


TURNS = (
    start_turn,
    start_turn,
    advance_turn,
    advance_turn,
    stop_turn,
    interrupt_turn,
)


def fitted(command: Command, model: Model, kept: int) -> Command:
    """The command about the last turn of its session, mostly as the instance that runs it would ask."""
    session = model.sessions.get(command.key)
    if not isinstance(command, AdvanceTurn | StopTurn | InterruptTurn) or not (session and session.turns):
        return command
    turn = session.turns[-1 if kept < 4 else 0]
    command = structs.replace(command, turn_id=turn.lease.turn_id)
    if not isinstance(command, AdvanceTurn) or kept == 0:
        return command
    return structs.replace(
        command,
        instance=turn.lease.instance,
        after=turn.beat if kept > 1 else command.after,
    )
