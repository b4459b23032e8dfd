"""What a turn that runs comes to, step by step: text by rows, messages, handovers, approvals, its end."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest
from msgspec import structs

from runtime.errors import ApprovalExists, SessionNotFound, TurnLost
from runtime.store.read.turn_reader import PAGE
from runtime.store.records import SessionKey, TurnPiece
from runtime.store.store import Store, open_store
from runtime.store.write.planned_turn import TEXT_ROW
from runtime.store.write.turn_commands import Ending
from tests.support.running_turns import (
    Clock,
    Running,
    ask,
    calling,
    end_in_calls,
    follow_all,
    hear_all,
    last_message,
    names,
    note,
    said,
    told,
    waits,
)

MOMENT = 0.02
TIMES = 120


async def rows(running: Running) -> list[TurnPiece]:
    """The stored events of the first turn, one a row."""
    head = await running.store._core.reader.get_head(SessionKey("", "s"))
    events, _ = await running.store.turns.turn_reader.list_events(head.id, 1, 0)
    return events


# Text


async def test_text_is_joined_into_rows_of_about_two_thousand_characters(store: Store) -> None:
    running = await ask(store)
    words = [f"word {n} " for n in range(1500)]
    for start in range(0, len(words), 7):
        await running.advance(*words[start : start + 7])
    await running.end()
    texts = [row.data for row in await rows(running) if row.kind == "text"]
    assert "".join(texts) == "".join(words)
    assert all(TEXT_ROW <= len(text) < TEXT_ROW + len(words[-1]) for text in texts[:-1])
    assert len(texts) <= len("".join(words)) // TEXT_ROW + 1
    assert said(told(await follow_all(store, running.id))) == "".join(words)


async def test_a_turn_of_many_small_pieces_costs_few_rows(store: Store) -> None:
    running = await ask(store)
    await running.advance(*(str(n % 10) for n in range(10_000)))
    assert len(await rows(running)) == 1 + 10_000 // TEXT_ROW


async def test_a_piece_longer_than_a_row_stays_whole(store: Store) -> None:
    running = await ask(store)
    await running.advance("x" * 3 * TEXT_ROW, "y")
    assert [(row.kind, len(row.data)) for row in (await rows(running))[1:]] == [
        ("text", 3 * TEXT_ROW),
        ("text", 1),
    ]
    assert await running.position() == (3, 1)


async def test_any_text_comes_back_equal(store: Store) -> None:
    pieces = ["\u0000", '"', "\\", "\n\r\t", "\\n", "\\u0000", "🌇", "é\u0301", "\u2028", "</", "'", "\x7f"]
    running = await ask(store)
    for piece in pieces:
        await running.advance(piece, piece)
    assert await running.position() == (2, 2 * len("".join(pieces)))
    await running.end()
    assert said(told(await follow_all(store, running.id))) == "".join(piece * 2 for piece in pieces)


async def test_empty_text_is_no_text(store: Store) -> None:
    running = await ask(store)
    await running.advance("", "")
    assert await running.position() == (1, 0)
    await running.advance("a", "", "b", "")
    assert await running.position() == (2, 2)
    await running.end()
    assert said(told(await follow_all(store, running.id))) == "ab"


async def test_text_after_another_event_begins_a_row(store: Store) -> None:
    running = await ask(store)
    await running.advance("before", events=(note("between"),))
    await running.advance("after")
    assert [row.kind for row in await rows(running)] == ["turn", "text", "message", "text"]
    assert await running.position() == (4, 5)


async def test_an_event_id_names_the_event_and_the_characters_up_to_its_end(store: Store) -> None:
    running = await ask(store)
    async with store.follow_turn("s", running.id) as follower:
        await follower.events(MOMENT)
        await running.advance("ab", "cde", events=(note("x"),))
        await running.advance("f", ending=Ending("completed"))
        ids = [event.id for event in await hear_all(follower)]
    assert ids == ["2-2", "2-5", "3", "4-1", "5"]
    assert [event.id for event in await follow_all(store, running.id)] == ["1", "2-5", "3", "4-1", "5"]


async def test_events_are_read_page_by_page(store: Store) -> None:
    running = await ask(store)
    await running.advance(events=tuple(note(str(n)) for n in range(2 * PAGE + 50)))
    await running.end()
    ids = [int(event.id) for event in await follow_all(store, running.id)]
    assert ids == list(range(1, 2 * PAGE + 53))


# What a step brings


async def test_a_step_stores_everything_at_once(store: Store) -> None:
    running = await ask(store)
    written = await running.advance(
        "Let me look.",
        messages=[calling("a", "b", token_count=7)],
        approvals=(waits("a", expires_in=60),),
        agent="coder",
        reason='"it is code"',
        events=(note("x"),),
        input_tokens=100,
        output_tokens=20,
    )
    assert written.turn.agent == (await store.get_context("s")).current_agent == "coder"
    assert (written.turn.input_tokens, written.turn.output_tokens) == (100, 20)
    assert [approval.call_id for approval in (await store.list_approvals("s")).approvals] == ["a"]
    assert [switch.reason for switch in (await store.list_switches("s")).switches] == ["it is code"]
    assert (await store.list_messages("s", last=1)).messages[0]["tool_calls"][1]["id"] == "b"
    await running.end()
    assert names(await follow_all(store, running.id)) == ["turn", "message", "agent_switched", "done"]


async def test_tokens_add_up_in_the_turn_and_in_the_stats(store: Store) -> None:
    running = await ask(store)
    for _ in range(3):
        await running.advance(
            messages=[{"role": "assistant", "content": "x", "token_count": 5}],
            events=(note("x"),),
            input_tokens=10,
            output_tokens=5,
        )
    ended = await running.end()
    assert (ended.turn.input_tokens, ended.turn.output_tokens) == (30, 15)
    stats = await store.get_stats("s")
    assert (stats.message_count, stats.total_tokens) == (4, 15)


@pytest.mark.parametrize("status", ["completed", "stopped", "failed"])
async def test_a_turn_ends_as_it_is_told_to(store: Store, clock: Clock, status: Any) -> None:
    running = await ask(store)
    clock.pass_seconds(3)
    error = '"out of \\u0000 words"' if status == "failed" else None
    await running.advance("So", ending=Ending(status, error, "model_error" if error else ""))
    (turn,) = (await store.list_turns("s")).turns
    assert (turn.status, turn.ended_at) == (status, clock.now)
    assert turn.error == ("out of \u0000 words" if error else None)
    assert names(await follow_all(store, running.id))[-1] == ("error" if error else "done")
    assert running.written.turn == turn


async def test_a_call_that_waits_already_is_refused_with_all_that_comes_with_it(store: Store) -> None:
    await end_in_calls(store, "a", waiting=[waits("a")])
    running = await ask(store)
    with pytest.raises(ApprovalExists):
        await running.advance("more", messages=[calling("a")], approvals=(waits("b"), waits("a")))
    assert [approval.call_id for approval in (await store.list_approvals("s")).approvals] == ["a"]
    await running.end()
    assert said(told(await follow_all(store, running.id))) == ""


# Repeats, and those who may not


async def test_a_step_that_is_repeated_after_a_lost_reply_changes_nothing(store: Store) -> None:
    running = await ask(store)
    steps = [
        running.step("once", input_tokens=10, output_tokens=1),
        {"messages": [{"role": "assistant", "content": "once"}], "events": (note("x"),), "input_tokens": 5},
        {"ending": Ending("completed"), "output_tokens": 2},
    ]
    for step in steps:
        command = step if not isinstance(step, dict) else running.step(**step)
        running.written = await store.turns.advance_turn(command)
        assert await store.turns.advance_turn(command) == running.written
    assert (running.written.turn.input_tokens, running.written.turn.output_tokens) == (15, 3)
    assert (await store.get_session("s")).message_count == 2
    assert said(told(await follow_all(store, running.id))) == "once"


async def test_a_step_sent_twice_at_once_is_taken_once(store: Store) -> None:
    running = await ask(store)
    step = running.step("once", input_tokens=10)
    first, second = await asyncio.gather(store.turns.advance_turn(step), store.turns.advance_turn(step))
    assert first == second
    assert first.turn.input_tokens == 10


async def test_another_instance_may_not_carry_a_turn_on(store: Store) -> None:
    running = await ask(store)
    with pytest.raises(TurnLost):
        await store.turns.advance_turn(structs.replace(running.step("mine"), instance="another"))
    with pytest.raises(TurnLost):
        await store.turns.advance_turn(structs.replace(running.step("mine"), turn_id="another"))


async def test_a_turn_that_has_ended_goes_no_further(store: Store) -> None:
    running = await ask(store)
    await running.end()
    for more in ({"texts": ("more",)}, {"ending": Ending("failed")}, {}):
        with pytest.raises(TurnLost):
            await store.turns.advance_turn(structs.replace(running.step(), **more))
    await ask(store)
    with pytest.raises(TurnLost):
        await running.advance("more")


async def test_a_step_from_another_place_is_refused(store: Store) -> None:
    running = await ask(store)
    ahead = structs.replace(running.step("x"), after=5)
    with pytest.raises(TurnLost):
        await store.turns.advance_turn(ahead)


async def test_a_session_that_is_deleted_ends_its_turn(store: Store) -> None:
    running = await ask(store)
    await running.advance("half")
    async with store.follow_turn("s", running.id) as follower:
        await store.delete_session("s")
        heard = await hear_all(follower)
    with pytest.raises(SessionNotFound):
        await running.advance("more")
    assert names(heard) == ["turn", "assistant_message", "error"]
    assert said(told(heard)) == "half"
    await store.restore_session("s")
    [turn] = (await store.list_turns("s")).turns
    error = msgspec.json.decode(heard[-1].data)
    assert (turn.status, turn.error, error["code"]) == ("interrupted", error["error"], "turn_interrupted")
    assert (await last_message(store))["content"] == "half"
    assert await follow_all(store, running.id, heard[-1].id) == []
    with pytest.raises(TurnLost):
        await running.advance("more")
    await (await ask(store)).end()


async def test_a_session_restored_at_once_takes_a_new_turn_at_once(store: Store, database_url: str) -> None:
    """Elsewhere, where that can be: the instance that runs the turn may not have heard of any of it."""
    async with AsyncExitStack() as stack:
        elsewhere = store
        if not store._core.database.sole_writer:
            elsewhere = await stack.enter_async_context(open_store(database_url))
        for _ in range(TIMES):
            running = await ask(store)
            await asyncio.gather(*(running.advance(), elsewhere.delete_session("s")), return_exceptions=True)
            await elsewhere.restore_session("s")
            new = await ask(elsewhere)
            with pytest.raises(TurnLost):
                await running.advance("more")
            await new.end()
        statuses = [turn.status for turn in (await store.list_turns("s", limit=2 * TIMES)).turns]
    assert statuses == ["completed", "interrupted"] * TIMES


async def test_the_cleanup_ends_the_turns_of_idle_sessions(store: Store, clock: Clock) -> None:
    running = await ask(store)
    clock.pass_seconds(7200)
    assert (await store.cleanup(max_age_hours=1)).soft_deleted == 1
    await store.restore_session("s")
    assert [turn.status for turn in (await store.list_turns("s")).turns] == ["interrupted"]
    with pytest.raises(TurnLost):
        await running.end()


async def test_a_session_deleted_for_good_leaves_followers_of_its_turn_no_more(store: Store) -> None:
    running = await ask(store)
    async with store.follow_turn("s", running.id) as follower:
        await store.delete_session("s")
        await store.restore_session("s")
        await store.delete_session("s", hard=True)
        assert await hear_all(follower) == []
