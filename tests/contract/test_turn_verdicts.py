"""Turns about calls that wait for a person: what is let through, what is rejected, what is given up."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from runtime.errors import (
    ApprovalDecided,
    ApprovalExpired,
    ApprovalNotFound,
    ApprovalPending,
    CallNotOpen,
)
from runtime.store.store import Store
from runtime.store.turn_store import tool_result, verdict
from runtime.store.write.turn_commands import Ending
from tests.support.running_turns import Clock, Running, ask, data_of, end_in_calls, last_message, user, waits

APPROVED = verdict("a", "approve", None, None)
REJECTED = verdict("a", "reject", None, "too high")
REJECTION = {
    "role": "tool",
    "content": "The user rejected this call. Feedback: too high",
    "tool_call_id": "a",
    "name": "look",
    "metadata": {"rejected": True},
}


async def test_a_call_that_waits_for_a_person_takes_no_result(store: Store, clock: Clock) -> None:
    await end_in_calls(store, "a", waiting=[waits("a", expires_in=60)])
    with pytest.raises(ApprovalPending):
        await store.turns.start_turn("s", result=tool_result("a", "blue"))
    clock.pass_seconds(60)
    with pytest.raises(ApprovalExpired):
        await store.turns.start_turn("s", result=tool_result("a", "blue"))
    with pytest.raises(ApprovalExpired):
        await store.turns.start_turn("s", verdict=APPROVED)
    assert (await ask(store)).written.turn.status == "running"


@pytest.mark.parametrize(
    ("decision", "modified", "arguments", "status"),
    [
        ("approve", None, {"at": "the sky"}, "approved"),
        ("edit", {"at": "the sea"}, {"at": "the sea"}, "edited"),
    ],
)
async def test_a_call_that_is_let_through_is_given_to_the_client_again(
    store: Store, decision: Any, modified: Any, arguments: Any, status: str
) -> None:
    await end_in_calls(store, "a", waiting=[waits("a")])
    given = verdict("a", decision, modified, None)
    started = await store.turns.start_turn("s", verdict=given)
    assert started.turn.status == "completed"
    assert (await store.list_approvals("s")).approvals[0].status == status
    _, call, done = await data_of(store, started.turn.turn_id)
    assert call == {
        "type": "tool_call",
        "call_id": "a",
        "tool_name": "look",
        "arguments": arguments,
        "requires_approval": False,
        "is_final": True,
    }
    assert done == {"status": "completed"}
    with pytest.raises(ApprovalDecided):
        await store.turns.start_turn("s", verdict=given)
    with pytest.raises(ApprovalDecided):
        await store.turns.start_turn("s", verdict=REJECTED)
    assert (await store.turns.start_turn("s", result=tool_result("a", "blue"))).turn.status == "running"


async def test_a_rejection_is_the_result_that_the_model_gets(store: Store) -> None:
    await end_in_calls(store, "a", waiting=[waits("a")])
    assert (await store.turns.start_turn("s", verdict=REJECTED)).turn.status == "running"
    assert await last_message(store) == REJECTION


async def test_a_rejection_beside_other_calls_waits_for_their_results(store: Store) -> None:
    await end_in_calls(store, "a", "b", waiting=[waits("a")])
    assert (await store.turns.start_turn("s", verdict=REJECTED)).turn.status == "completed"
    assert await last_message(store) == REJECTION
    with pytest.raises(CallNotOpen):
        await store.turns.start_turn("s", result=tool_result("a", "blue"))
    assert (await store.turns.start_turn("s", result=tool_result("b", "blue"))).turn.status == "running"


async def test_a_rejection_given_elsewhere_is_carried_out_once(store: Store) -> None:
    await end_in_calls(store, "a", waiting=[waits("a")])
    await store.decide_approval("s", "a", "reject", feedback="too high")
    with pytest.raises(CallNotOpen):
        await store.turns.start_turn("s", result=tool_result("a", "blue"))
    started = await store.turns.start_turn("s", verdict=verdict("a", "reject", None, "said again"))
    assert started.turn.status == "running"
    assert await last_message(store) == REJECTION
    await Running(store, started).end()
    with pytest.raises(ApprovalDecided):
        await store.turns.start_turn("s", verdict=REJECTED)


async def test_an_approval_given_elsewhere_is_not_carried_out_again(store: Store) -> None:
    await end_in_calls(store, "a", waiting=[waits("a")])
    await store.decide_approval("s", "a", "approve")
    with pytest.raises(ApprovalDecided):
        await store.turns.start_turn("s", verdict=APPROVED)
    assert (await store.turns.start_turn("s", result=tool_result("a", "blue"))).turn.status == "running"


@pytest.mark.parametrize("with_result", [True, False])
async def test_a_rejection_given_elsewhere_is_told_by_whatever_comes_next(
    store: Store, with_result: bool
) -> None:
    await end_in_calls(store, "a", "b", waiting=[waits("a")])
    await store.decide_approval("s", "a", "reject", feedback="too high")
    if with_result:
        started = await store.turns.start_turn("s", result=tool_result("b", "blue"))
    else:
        started = await store.turns.start_turn("s", messages=[user("Never mind.")])
    assert started.turn.status == "running"
    told, other = (await store.list_messages("s", last=2)).messages
    assert {**REJECTION, "seq": told["seq"], "timestamp": told["timestamp"]} == told
    assert other["content"] == ("blue" if with_result else "Never mind.")


async def test_a_user_who_speaks_instead_of_deciding_gives_the_call_up(store: Store, clock: Clock) -> None:
    await end_in_calls(store, "a", "b", waiting=[waits("a", expires_in=60), waits("b")])
    clock.pass_seconds(30)
    await ask(store, "Never mind.")
    for approval in (await store.list_approvals("s")).approvals:
        assert (approval.status, approval.expires_at) == ("expired", clock.now)
    with pytest.raises(ApprovalExpired):
        await store.decide_approval("s", "a", "approve")
    assert await store.turns.count_waiting_approvals() == 0


async def test_a_verdict_needs_an_approval(store: Store) -> None:
    await end_in_calls(store, "a")
    with pytest.raises(ApprovalNotFound):
        await store.turns.start_turn("s", verdict=APPROVED)


async def test_of_many_verdicts_at_once_one_is_carried_out(store: Store) -> None:
    await end_in_calls(store, "a", "b", waiting=[waits("a")])
    verdicts = [store.turns.start_turn("s", verdict=each) for each in (APPROVED, REJECTED) * 10]
    given = await asyncio.gather(*verdicts, return_exceptions=True)
    assert sorted(type(each).__name__ for each in given) == ["ApprovalDecided"] * 19 + ["TurnWritten"]


async def test_the_agent_that_made_a_call_is_found(store: Store, clock: Clock) -> None:
    clock.pass_seconds(1)
    await end_in_calls(store, "a", waiting=[waits("a")])
    for jump, call_id in ((-3600.0, "b"), (7200.0, "c")):
        await store.turns.start_turn("s", agent="coder" if call_id == "b" else "ask")
        clock.pass_seconds(1)
        running = await ask(store)
        # Its end is no earlier than its beginning, whatever the clock does.
        clock.jump(jump)
        await running.advance(approvals=(waits(call_id),), ending=Ending("completed"))
        clock.pass_seconds(1)
        await store.turns.start_turn("s", agent="debug")
        clock.pass_seconds(1)
    await store.create_approval("s", "d", "look", {})
    found = (await store.list_approvals("s")).approvals
    callers = {approval.call_id: await store.turns.find_caller(approval) for approval in found}
    assert callers == {"a": "orchestrator", "b": "coder", "c": "ask", "d": None}
