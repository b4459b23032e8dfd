"""Turns as the engine runs them: over a shutdown, a death, a fault of our own. On both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec
import pytest

from runtime.agents import recorder as recorder_module
from runtime.agents.configuration import load_registry
from runtime.agents.engine import Engine, make_model
from runtime.agents.model import Answer, Model, Question, ToolCall
from runtime.agents.turn_messages import Content, SwitchAgentMessage, UserMessage
from runtime.config import Settings
from runtime.errors import ShuttingDown, TurnRunning
from runtime.metrics import Metrics
from runtime.store.follow.turn_follower import TurnFollower
from runtime.store.records import SessionKey
from runtime.store.store import Store, open_store
from tests.support.database_locks import blocked
from tests.support.gated_store import Gated
from tests.support.model_server import Script, model_server, says
from tests.support.running_turns import Heard, follow_all, hear_all, hear_to, said, told, user

QUICK = Settings(write_timeout=0.3, shutdown_timeout=1, command_timeout=2.0, pool_timeout=2.0)


@asynccontextmanager
async def running(store: Store, model: Model, metrics: Metrics | None = None) -> AsyncIterator[Engine]:
    """An engine with the built-in agents; it closes its model."""
    engine = Engine(store, load_registry(""), model, metrics or Metrics())
    try:
        yield engine
    finally:
        await engine.close(5)


@asynccontextmanager
async def asking(
    url: str, script: Script, settings: Settings | None = None
) -> AsyncIterator[tuple[Store, Engine]]:
    async with (
        model_server(script) as server,
        open_store(url, settings) as store,
        running(store, make_model(Settings(llm_url=server.url))) as engine,
    ):
        yield store, engine


async def hear_until(follower: TurnFollower, text: str) -> None:
    """Wait until the turn has said this."""
    heard: Heard = []
    while not said(heard).endswith(text):
        heard += await hear_to(follower, 1)


async def start(engine: Engine, content: str = "hi") -> str:
    """The id of a new turn."""
    return (await engine.start("s", UserMessage(Content.parse(content)))).turn.turn_id


async def contents(store: Store) -> list[Any]:
    return [message["content"] for message in (await store.list_messages("s")).messages]


async def test_a_shutdown_interrupts_what_runs_and_keeps_what_was_said(database_url: str) -> None:
    gate = asyncio.Semaphore(1)
    async with asking(database_url, [says("So far", " and more", gate=gate)]) as (store, engine):
        turn_id = await start(engine)
        async with store.follow_turn("s", turn_id) as follower:
            await hear_until(follower, "So far")
            await engine.close(5)
            final, error = await hear_all(follower)
        assert msgspec.json.decode(final.data)["content"] == "So far"
        assert (error.name, msgspec.json.decode(error.data)["code"]) == ("error", "turn_interrupted")
        [turn] = (await store.list_turns("s")).turns
        assert turn.status == "interrupted"
        stored = (await store.list_messages("s")).messages[1]
        metadata = {"turn_id": turn_id, "agent": "orchestrator", "interrupted": True}
        assert (stored["content"], stored["metadata"]) == ("So far", metadata)
        with pytest.raises(ShuttingDown):
            await start(engine)


async def test_after_a_shutdown_the_session_takes_a_turn_at_once(database_url: str) -> None:
    gate = asyncio.Semaphore(0)
    async with asking(database_url, [says("never", gate=gate)]) as (_, engine):
        await start(engine)
    async with asking(database_url, [says("Better.")]) as (store, engine):
        assert said(told(await follow_all(store, await start(engine, "again")))) == "Better."
        assert await contents(store) == ["hi", "again", "Better."]


async def test_a_shutdown_does_not_wait_for_a_database_that_is_away(database_url: str) -> None:
    gate = asyncio.Semaphore(1)
    async with asking(database_url, [says("So far", "", gate=gate)], QUICK) as (store, engine):
        turn_id = await start(engine)
        async with store.follow_turn("s", turn_id) as follower:
            await hear_until(follower, "So far")
        async with blocked(database_url), asyncio.timeout(10):
            await engine.close(0.1)


async def die(url: str) -> str:
    """The id of a turn whose process is gone."""
    async with open_store(url) as store:
        return (await store.turns.start_turn("s", messages=[user("hi")])).turn.turn_id


async def test_a_turn_whose_process_died_is_ended_by_the_next(database_url: str) -> None:
    turn_id = await die(database_url)
    async with open_store(database_url) as store, running(store, Curt()) as engine:
        events = await follow_all(store, turn_id)
        assert msgspec.json.decode(events[-1].data)["code"] == "turn_interrupted"
        await follow_all(store, await start(engine, "again"))
        assert await contents(store) == ["hi", "again", "Done."]


async def test_a_turn_whose_process_died_is_counted_once_whoever_finds_it(database_url: str) -> None:
    await die(database_url)
    metrics = Metrics()
    metrics.known_agents = ["orchestrator"]
    async with open_store(database_url, metrics=metrics) as store:
        await asyncio.gather(*(store.turns.interrupt_lost_turn("s") for _ in range(5)))
    labels = {"status": "interrupted", "agent": "orchestrator"}
    assert metrics.registry.get_sample_value("agent_runtime_turns_total", labels) == 1


async def test_no_connection_is_held_while_the_model_is_silent(database_url: str) -> None:
    gate = asyncio.Semaphore(0)
    async with asking(database_url, [says("Hello", gate=gate)] * 20) as (store, engine):
        turns = [await engine.start(f"s{n}", UserMessage(Content.parse("hi"))) for n in range(20)]
        with pytest.raises(TurnRunning):
            await engine.start("s0", UserMessage(Content.parse("ho")))
        assert await store.check_health() == {"database": "ok", "migrations": "ok", "writer": "ok"}
        for _ in range(40):
            gate.release()
        for turn in turns:
            async with store.follow_turn(turn.session_id, turn.turn.turn_id) as follower:
                assert said(told(await hear_all(follower))) == "Hello"


async def test_a_turn_is_stopped_from_another_instance(postgres_url: str) -> None:
    gate = asyncio.Semaphore(1)
    script = [says("So far", " and more", gate=gate)]
    async with open_store(postgres_url) as other, asking(postgres_url, script) as (store, engine):
        turn_id = await start(engine)
        async with other.follow_turn("s", turn_id) as follower:
            await hear_until(follower, "So far")
            await other.stop_turn("s", turn_id)
            events = await hear_all(follower)
        assert msgspec.json.decode(events[-1].data) == {"status": "stopped"}
        assert await contents(store) == ["hi", "So far"]


class Faulty:
    """Implements Model, badly."""

    def __init__(self) -> None:
        self.closed = False

    async def ask(self, question: Question, say: Callable[[str], None]) -> Answer:
        say("So far")
        raise RuntimeError("secret insides")

    async def close(self) -> None:
        self.closed = True


async def test_an_internal_error_ends_the_turn_without_showing_details(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, metrics = Faulty(), Metrics()
    async with open_store(database_url, metrics=metrics) as store, running(store, model, metrics) as engine:
        events = await follow_all(store, await start(engine))
        error = msgspec.json.decode(events[-1].data)
        assert error["code"] == "internal_error"
        assert "secret" not in error["error"]
        assert await contents(store) == ["hi", "So far"]
    assert model.closed
    assert "secret insides" in caplog.text


async def test_turns_are_counted_as_they_end(database_url: str) -> None:
    metrics = Metrics()
    async with open_store(database_url, metrics=metrics) as store:
        async with running(store, Faulty(), metrics) as engine:
            await engine.start("s", SwitchAgentMessage("ask"))
            await follow_all(store, await start(engine))
        value = metrics.registry.get_sample_value
        for labels in ({"status": "completed", "agent": "ask"}, {"status": "failed", "agent": "ask"}):
            assert value("agent_runtime_turns_total", labels) == 1
        assert value("agent_runtime_turns_running") == 0


class Curt:
    """Implements Model: has one word, and says it at the end."""

    async def ask(self, question: Question, say: Callable[[str], None]) -> Answer:
        return Answer("Done.")

    async def close(self) -> None:
        pass


async def test_a_turn_that_ends_before_it_is_stopped_is_counted_too(database_url: str) -> None:
    metrics = Metrics()
    async with open_store(database_url, metrics=metrics) as store:
        gated = Gated(store)
        async with running(cast(Store, gated), Curt(), metrics) as engine:
            gated.gate.clear()
            turn_id = await start(engine)
            await gated.wait_for_commands(1)
            await store.stop_turn("s", turn_id)
            gated.gate.set()
            events = await follow_all(store, turn_id)
    assert msgspec.json.decode(events[-1].data) == {"status": "completed"}
    labels = {"status": "completed", "agent": "orchestrator"}
    assert metrics.registry.get_sample_value("agent_runtime_turns_total", labels) == 1


async def test_a_repeat_after_the_end_is_not_run_again(database_url: str) -> None:
    async with asking(database_url, [says("Once.")]) as (store, engine):
        first = await engine.start("s", UserMessage(Content.parse("hi")), idempotency_key="k")
        await follow_all(store, first.turn.turn_id)
        again = await engine.start("s", UserMessage(Content.parse("hi")), idempotency_key="k")
        assert (again.replayed, again.turn.turn_id) == (True, first.turn.turn_id)
        assert await contents(store) == ["hi", "Once."]


async def test_the_repeat_of_a_finished_start_is_not_counted(database_url: str) -> None:
    metrics = Metrics()
    async with open_store(database_url, metrics=metrics) as store, running(store, Curt(), metrics) as engine:
        for _ in range(3):
            ended = await engine.start("s", SwitchAgentMessage("ask"), idempotency_key="switch")
            asked = await engine.start("t", UserMessage(Content.parse("hi")), idempotency_key="ask")
            async with store.follow_turn("t", asked.turn.turn_id) as follower:
                await hear_all(follower)
    assert (ended.replayed, asked.replayed) == (True, True)
    value = metrics.registry.get_sample_value
    for agent in ("ask", "orchestrator"):
        assert value("agent_runtime_turns_total", {"status": "completed", "agent": agent}) == 1


async def test_a_start_that_nobody_went_on_with_is_out_of_the_way_of_the_next(database_url: str) -> None:
    async with open_store(database_url) as store, running(store, Curt()) as engine:
        # So that only the start itself can find it.
        engine._sweeping.cancel()
        # What a start leaves whose reply was lost: it is stored, and nobody knows of it.
        left = await store.turns.start_turn("s", messages=[user("hi")])
        store.turns.abandon(SessionKey("", "s"), left.turn.turn_id)
        turn_id = await start(engine, "again")
        await follow_all(store, turn_id)
        turns = (await store.list_turns("s")).turns
        assert [(turn.turn_id, turn.status) for turn in turns] == [
            (turn_id, "completed"),
            (left.turn.turn_id, "interrupted"),
        ]


class Writer:
    """Implements Model: says something, and when it is let go on, more; and asks for a file."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def ask(self, question: Question, say: Callable[[str], None]) -> Answer:
        say("So far")
        await self.go_on.wait()
        say(" and more")
        return Answer("So far and more", (ToolCall("c", "write_file", '{"path":"a","content":""}'),))

    async def close(self) -> None:
        pass


async def test_what_was_said_is_kept_where_the_answer_cannot_be_stored(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "PAUSE", 1000.0)
    model = Writer()
    async with open_store(database_url) as store:
        gated = Gated(store)
        async with running(cast(Store, gated), model) as engine:
            turn = await engine.start("s", SwitchAgentMessage("coder", Content.parse("Write.")))
            await gated.wait_for_commands(1)
            gated.gate.clear()
            model.go_on.set()
            await gated.wait_for_commands(2)
            await store.create_approval("s", "c", "write_file", {})
            gated.gate.set()
            events = await follow_all(store, turn.turn.turn_id)
        assert said(told(events)) == "So far and more"
        assert msgspec.json.decode(events[-1].data)["code"] == "approval_exists"
        assert await contents(store) == ["Write.", "So far and more"]
        [last] = (await store.list_messages("s", last=1)).messages
        assert last["metadata"]["failed"] is True
