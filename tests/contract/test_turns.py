"""How a turn begins: in which session, with what, and when there is nothing to ask a model."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from runtime.errors import (
    CallNotOpen,
    InvalidInput,
    KeyReused,
    SessionNotFound,
    TurnRunning,
    VersionMismatch,
)
from runtime.store.store import Store
from runtime.store.turn_store import tool_result, verdict
from tests.support.running_turns import (
    Clock,
    ask,
    calling,
    data_of,
    end_in_calls,
    follow_all,
    last_message,
    names,
    user,
)

APPROVED = verdict("a", "approve", None, None)


async def test_a_turn_in_a_session_that_is_missing_makes_it(store: Store, clock: Clock) -> None:
    started = await store.turns.start_turn("s", messages=[user("Why is the sky blue?")])
    turn = started.turn
    assert (turn.status, turn.agent, turn.started_at) == ("running", "orchestrator", clock.now)
    assert (turn.ended_at, turn.error, turn.input_tokens, turn.output_tokens) == (None, None, 0, 0)
    session = await store.get_session("s")
    assert (session.title, session.message_count) == ("Why is the sky blue?", 1)
    assert session.version == started.version == 1
    assert (await store.list_turns("s")).turns == [turn]


async def test_a_session_has_one_turn_at_a_time(store: Store) -> None:
    running = await ask(store)
    with pytest.raises(TurnRunning) as refused:
        await ask(store)
    assert running.id in str(refused.value)
    assert (await store.get_session("s")).message_count == 1
    await running.end()
    again = await ask(store)
    assert [turn.turn_id for turn in (await store.list_turns("s")).turns] == [again.id, running.id]
    assert [turn.turn_id for turn in (await store.list_turns("s", limit=1)).turns] == [again.id]


async def test_of_many_who_begin_at_once_one_does(store: Store) -> None:
    begun = await asyncio.gather(*(ask(store) for _ in range(20)), return_exceptions=True)
    assert sorted(type(each).__name__ for each in begun) == ["Running", *["TurnRunning"] * 19]


async def test_a_session_that_is_deleted_takes_no_turn(store: Store) -> None:
    await store.create_session("s")
    await store.delete_session("s")
    with pytest.raises(SessionNotFound):
        await ask(store)


async def test_what_answers_a_call_needs_a_session(store: Store) -> None:
    with pytest.raises(SessionNotFound):
        await store.turns.start_turn("s", result=tool_result("a", "blue"))
    with pytest.raises(SessionNotFound):
        await store.turns.start_turn("s", verdict=APPROVED)
    with pytest.raises(SessionNotFound):
        await store.get_session("s")


async def test_a_handover_alone_asks_no_model(store: Store) -> None:
    started = await store.turns.start_turn("s", agent="coder")
    assert (started.turn.status, started.turn.agent) == ("completed", "coder")
    assert (await store.get_context("s")).current_agent == "coder"
    assert [switch.to_agent for switch in (await store.list_switches("s")).switches] == ["coder"]
    begun, switched, done = await data_of(store, started.turn.turn_id)
    assert begun == {"turn_id": started.turn.turn_id}
    assert (switched["type"], switched["is_final"]) == ("agent_switched", False)
    assert switched["metadata"] == {"from_agent": "orchestrator", "to_agent": "coder", "reason": None}
    assert done == {"status": "completed"}


async def test_a_handover_with_a_question_asks_the_new_agent(store: Store) -> None:
    started = await store.turns.start_turn("s", agent="coder", messages=[user("Write it.")])
    assert (started.turn.status, started.turn.agent) == ("running", "coder")
    assert (await store.get_session("s")).message_count == 1


async def test_a_handover_to_the_agent_that_holds_the_session_is_none(store: Store) -> None:
    started = await store.turns.start_turn("s", agent="orchestrator")
    assert names(await follow_all(store, started.turn.turn_id)) == ["turn", "done"]
    assert (await store.list_switches("s")).switches == []


# Results of tools


@pytest.mark.parametrize(
    ("content", "failed", "stored"),
    [
        ("blue \u0000 🌇", False, {"content": "blue \u0000 🌇"}),
        ({"colour": ["blue", 2**60 + 1]}, False, {"content": '{"colour":["blue",1152921504606846977]}'}),
        ("it is night", True, {"content": "it is night", "metadata": {"failed": True}}),
    ],
)
async def test_the_result_of_a_call_is_stored_and_the_model_goes_on(
    store: Store, content: Any, failed: bool, stored: dict[str, Any]
) -> None:
    await end_in_calls(store, "a")
    started = await store.turns.start_turn("s", result=tool_result("a", content, failed=failed))
    assert started.turn.status == "running"
    assert await last_message(store) == {"role": "tool", "tool_call_id": "a", "name": "look", **stored}


async def test_a_result_may_name_its_tool(store: Store) -> None:
    await end_in_calls(store, "a")
    await store.turns.start_turn("s", result=tool_result("a", "blue", tool_name="gaze"))
    assert (await last_message(store))["name"] == "gaze"


async def test_the_model_goes_on_when_the_last_of_several_calls_is_answered(store: Store) -> None:
    await end_in_calls(store, "a", "b", "c")
    statuses = []
    for call_id in "bac":
        started = await store.turns.start_turn("s", result=tool_result(call_id, f"of {call_id}"))
        statuses.append(started.turn.status)
    assert statuses == ["completed", "completed", "running"]
    assert [each["content"] for each in (await store.list_messages("s", last=3)).messages] == [
        "of b",
        "of a",
        "of c",
    ]


async def test_a_result_is_taken_once(store: Store) -> None:
    await end_in_calls(store, "a", "b")
    await store.turns.start_turn("s", result=tool_result("a", "blue"))
    with pytest.raises(CallNotOpen):
        await store.turns.start_turn("s", result=tool_result("a", "blue"))


async def test_of_many_results_for_one_call_one_is_taken(store: Store) -> None:
    await end_in_calls(store, "a", "b")
    results = [store.turns.start_turn("s", result=tool_result("a", str(n))) for n in range(20)]
    taken = await asyncio.gather(*results, return_exceptions=True)
    assert sorted(type(each).__name__ for each in taken) == ["CallNotOpen"] * 19 + ["TurnWritten"]


async def test_a_call_that_was_never_made_waits_for_no_result(store: Store) -> None:
    await end_in_calls(store, "a")
    with pytest.raises(CallNotOpen):
        await store.turns.start_turn("s", result=tool_result("b", "blue"))


@pytest.mark.parametrize("after", [user("Never mind."), {"role": "assistant", "content": "Never mind."}])
async def test_a_call_waits_for_no_result_once_the_conversation_went_on(
    store: Store, after: dict[str, Any]
) -> None:
    await end_in_calls(store, "a")
    await store.append_messages("s", [after])
    with pytest.raises(CallNotOpen):
        await store.turns.start_turn("s", result=tool_result("a", "blue"))


@pytest.mark.parametrize("calls", [[], [{"id": 5}], [{"name": "look"}], ["a"]])
async def test_calls_of_another_form_wait_for_no_result(store: Store, calls: list[Any]) -> None:
    await store.create_session("s", messages=[{"role": "assistant", "content": "x", "tool_calls": calls}])
    with pytest.raises(CallNotOpen):
        await store.turns.start_turn("s", result=tool_result("a", "blue"))
    assert (await ask(store)).written.turn.status == "running"


async def test_calls_that_a_client_stored_itself_can_be_answered(store: Store) -> None:
    await store.create_session("s", messages=[user("Why?"), calling("a")])
    assert (await store.turns.start_turn("s", result=tool_result("a", "blue"))).turn.status == "running"


# What every write takes


async def test_w12_the_same_key_gives_the_same_turn(store: Store) -> None:
    first = await store.turns.start_turn("s", messages=[user("Why?")], idempotency_key="k")
    again = await store.turns.start_turn("s", messages=[user("Why?")], idempotency_key="k")
    assert (again.turn, again.beat, again.replayed) == (first.turn, first.beat, True)
    with pytest.raises(KeyReused):
        await store.turns.start_turn("s", messages=[user("How?")], idempotency_key="k")
    assert (await store.get_session("s")).message_count == 1
    assert len((await store.list_turns("s")).turns) == 1


async def test_a_turn_begins_at_the_version_that_is_expected(store: Store) -> None:
    await store.create_session("s")
    with pytest.raises(VersionMismatch):
        await store.turns.start_turn("s", messages=[user("Why?")], if_match=2)
    assert (await store.turns.start_turn("s", messages=[user("Why?")], if_match=1)).version == 2


async def test_what_cannot_be_stored_begins_no_turn(store: Store) -> None:
    for messages in ([user("\ud800")], [{"role": "nobody", "content": "x"}], ["x"]):
        with pytest.raises(InvalidInput) as refused:
            await store.turns.start_turn("s", messages=messages)
        assert refused.value.problems[0].path.startswith("$.message")
    with pytest.raises(InvalidInput):
        tool_result("a", float("nan"))
    with pytest.raises(InvalidInput):
        tool_result("a\n", "blue")
    with pytest.raises(InvalidInput):
        verdict("", "approve", None, None)
