"""Recording what a turn comes to: joined, in order, once, whatever the database does meanwhile."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from runtime import retry
from runtime.agents import recorder as recorder_module
from runtime.agents.recorder import PIECE, Recorder
from runtime.config import Settings
from runtime.errors import ApprovalExists, NotStored, SessionNotFound, ShuttingDown
from runtime.store.messages import new_messages
from runtime.store.records import SessionKey
from runtime.store.store import Store, open_store
from runtime.store.turn_events import assistant_message
from runtime.store.write.outcomes import TurnWritten
from runtime.store.write.turn_commands import Ending
from tests.support.database_locks import blocked
from tests.support.gated_store import Gated
from tests.support.running_turns import follow_all, hear_to, said, told, user, waits
from tests.support.tcp_proxy import lay_wire

pytestmark = pytest.mark.slow

QUICK = Settings(write_timeout=0.3, shutdown_timeout=1, command_timeout=2.0, pool_timeout=2.0)
DONE = Ending("completed")


class Recording:
    """A recorder at work. What it calls sets events."""

    def __init__(self, store: Store, turn: TurnWritten) -> None:
        self.store = Gated(store)
        self.turn_id = turn.turn.turn_id
        self.session_db_id = turn.session_db_id
        self.stopped = asyncio.Event()
        self.lost: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self.recorder = Recorder(
            cast(Store, self.store), SessionKey("", "s"), turn, self.stopped.set, self.lost.set_result
        )

    async def lose(self) -> Exception:
        async with asyncio.timeout(20):
            return await self.lost

    async def heard(self) -> str:
        """The text as it is stored."""
        return said(told(await follow_all(self.store._store, self.turn_id)))


@asynccontextmanager
async def recording(store: Store) -> AsyncIterator[Recording]:
    """A recorder for a new turn of the session `s`."""
    made = Recording(store, await store.turns.start_turn("s", messages=[user("hi")]))
    running = asyncio.create_task(made.recorder.run())
    try:
        yield made
    finally:
        made.store.gate.set()
        made.recorder.close()
        await running


async def test_what_is_said_while_a_write_is_held_becomes_one_write(database_url: str) -> None:
    async with open_store(database_url) as store, recording(store) as made:
        made.store.gate.clear()
        made.recorder.append_text("a")
        await made.store.wait_for_commands(1)
        for letter in "bcd":
            made.recorder.append_text(letter)
        made.store.gate.set()
        await made.store.wait_for_commands(2)
        await made.recorder.record(ending=DONE)
        assert made.store.texts[:2] == [("a",), ("bcd",)]
        assert [event.id for event in await follow_all(store, made.turn_id)] == ["1", "2-4", "3"]


async def test_nothing_is_told_before_it_is_stored(database_url: str) -> None:
    async with open_store(database_url) as store, recording(store) as made:
        async with store.follow_turn("s", made.turn_id) as follower:
            await hear_to(follower, 1)
            made.store.gate.clear()
            made.recorder.append_text("a")
            await made.store.wait_for_commands(1)
            assert await follower.events(0) == []
            made.store.gate.set()
            assert said(await hear_to(follower, 1)) == "a"
        await made.recorder.record(ending=DONE)


async def test_what_follows_within_the_pause_is_joined(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "PAUSE", 1000.0)
    async with open_store(database_url) as store, recording(store) as made:
        made.recorder.append_text("first")
        await made.store.wait_for_commands(1)
        for n in range(1000):
            made.recorder.append_text(f" {n}")
        # A step does not wait for the pause, and takes along what was said before it.
        await made.recorder.record(ending=DONE)
        assert made.store.texts[0] == ("first",)
        assert len(made.store.texts) == 2
        assert all(PIECE <= len(text) < PIECE + 5 for text in made.store.texts[1][:-1])
        assert await made.heard() == "first" + "".join(f" {n}" for n in range(1000))


async def test_text_is_stored_as_it_was_said_however_it_is_joined_and_cut(database_url: str) -> None:
    pieces = ["a\r\n", "\r", "\n", '"\\', "\u0000", "🌇" * PIECE, "é\u0301" * PIECE, "x" * (3 * PIECE + 1)]
    async with open_store(database_url) as store, recording(store) as made:
        for piece in pieces:
            made.recorder.append_text(piece)
        assert made.recorder.said == "".join(pieces)
        await made.recorder.record(ending=DONE)
        assert await made.heard() == "".join(pieces)


async def test_ten_thousand_pieces_take_a_few_rows(database_url: str) -> None:
    pieces = [f"word{n} " for n in range(10_000)]
    async with open_store(database_url) as store, recording(store) as made:
        for piece in pieces:
            made.recorder.append_text(piece)
        await made.recorder.record(ending=DONE)
        events = await follow_all(store, made.turn_id)
        assert said(told(events)) == "".join(pieces)
        assert len(events) < 60


async def test_a_step_follows_what_was_said_before_it(database_url: str) -> None:
    async with open_store(database_url) as store, recording(store) as made:
        made.recorder.append_text("")
        made.recorder.append_text('Hel"')
        made.recorder.append_text("lo\n")
        assert made.recorder.said == 'Hel"lo\n'
        answer = {"role": "assistant", "content": 'Hel"lo\n'}
        final = assistant_message('"Hel\\"lo\\n"')
        await made.recorder.record(messages=new_messages([answer]), events=(final,))
        assert made.recorder.said == ""
        made.recorder.append_text("More")
        assert made.recorder.said == "More"
        await made.recorder.record(ending=DONE)
        names = [event.name for event in await follow_all(store, made.turn_id)]
        assert names == ["turn", "message", "message", "message", "done"]
        assert await made.heard() == 'Hel"lo\nMore'


async def test_a_write_that_comes_behind_the_end_loses_nothing(database_url: str) -> None:
    async with open_store(database_url) as store, recording(store) as made:
        made.store.gate.clear()
        ending = asyncio.create_task(made.recorder.record(ending=DONE))
        await made.store.wait_for_commands(1)
        made.recorder.poll()
        made.store.gate.set()
        assert (await ending).turn.status == "completed"
    assert not made.lost.done()


async def test_a_cancelled_step_is_stored_and_the_next_one_continues(
    database_url: str,
) -> None:
    async with open_store(database_url) as store, recording(store) as made:
        made.store.gate.clear()
        made.recorder.append_text("a")
        step = asyncio.create_task(made.recorder.record(messages=new_messages([user("stored")])))
        await made.store.wait_for_commands(1)
        step.cancel()
        made.recorder.append_text("b")
        made.store.gate.set()
        await made.recorder.record(ending=DONE)
        assert await made.heard() == "ab"
        assert step.cancelled()
        page = await store.list_messages("s")
        assert [message["content"] for message in page.messages] == ["hi", "stored"]


async def test_a_turn_that_is_to_stop_is_told_with_the_next_write(database_url: str) -> None:
    async with open_store(database_url) as store, recording(store) as made:
        with store.turns.watch_turns(made.session_db_id, made.recorder.poll):
            await store.stop_turn("s", made.turn_id)
            async with asyncio.timeout(20):
                await made.stopped.wait()
        await made.recorder.record(ending=Ending("stopped"))


async def test_a_silent_turn_gives_signs_of_life(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "RENEWAL", 0.01)
    async with open_store(database_url) as store, recording(store) as made:
        await made.store.wait_for_commands(4)
        beats = [command.after for command in made.store.commands[:4]]
        assert beats == [0, 1, 2, 3]
        await made.recorder.record(ending=DONE)
        assert set(made.store.texts) == {()}
        assert [event.name for event in await follow_all(store, made.turn_id)] == ["turn", "done"]


async def test_what_the_database_does_not_take_is_written_when_it_is_back(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.01)
    async with open_store(database_url, QUICK) as store, recording(store) as made:
        async with blocked(database_url):
            made.recorder.append_text("a")
            await made.store.wait_for_commands(2)
            made.recorder.append_text("b")
        await made.recorder.record(ending=DONE)
        assert await made.heard() == "ab"
        assert not made.lost.done()


async def test_what_is_in_though_the_reply_was_lost_is_not_written_again(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.01)
    async with (
        lay_wire(postgres_url) as (wire, url),
        open_store(url, QUICK) as store,
        recording(store) as made,
    ):
        wire.once, wire.at_commit = True, "cut after"
        made.recorder.append_text("a")
        await made.store.wait_for_commands(1)
        made.recorder.append_text("b")
        await made.recorder.record(ending=DONE)
        assert wire.faults == 1
        assert await made.heard() == "ab"


async def test_a_database_that_stays_away_loses_the_turn(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "PATIENCE", 0.0)
    async with open_store(database_url, QUICK) as store, recording(store) as made, blocked(database_url):
        made.recorder.append_text("a")
        assert isinstance(await made.lose(), NotStored)


async def test_a_deleted_session_loses_its_turn(database_url: str) -> None:
    async with open_store(database_url) as store, recording(store) as made:
        await store.delete_session("s")
        made.recorder.append_text("a")
        assert isinstance(await made.lose(), SessionNotFound)


async def test_a_closed_store_is_not_waited_for(database_url: str) -> None:
    async with open_store(database_url) as store, recording(store) as made:
        await store.close(1)
        made.recorder.append_text("a")
        assert isinstance(await made.lose(), ShuttingDown)


async def test_what_a_step_that_failed_took_along_stays_for_the_last_words(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "PAUSE", 1000.0)
    async with open_store(database_url) as store, recording(store) as made:
        made.recorder.append_text("So far")
        await made.store.wait_for_commands(1)
        made.recorder.append_text(" and more")
        await store.create_approval("s", "c", "look", {})
        with pytest.raises(ApprovalExists):
            await made.recorder.record(approvals=(waits("c"),), ending=DONE)
        assert made.recorder.said == "So far and more"
        last = {"role": "assistant", "content": made.recorder.said}
        await made.recorder.record(messages=new_messages([last]), ending=Ending("failed"))
        assert made.store.texts == [("So far",), (" and more",), (" and more",)]
        assert await made.heard() == "So far and more"


async def test_a_step_that_fails_after_its_caller_left_logs_no_lost_error(
    database_url: str,
) -> None:
    ignored: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: ignored.append(context))
    async with open_store(database_url) as store, recording(store) as made:
        await store.create_approval("s", "c", "look", {})
        made.store.gate.clear()
        step = asyncio.create_task(made.recorder.record(approvals=(waits("c"),)))
        await made.store.wait_for_commands(1)
        step.cancel()
        await asyncio.wait([step])
        made.store.gate.set()
        await made.recorder.record(ending=DONE)
    gc.collect()
    await asyncio.sleep(0)
    assert ignored == []
