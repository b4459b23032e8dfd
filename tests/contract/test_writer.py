"""The promises of the write path, each on both databases."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from runtime.config import Settings
from runtime.errors import (
    DeadlinePassed,
    KeyReused,
    NotStored,
    Overloaded,
    RefusedByDatabase,
    SessionNotFound,
    ShuttingDown,
    Unconfirmed,
    VersionMismatch,
)
from runtime.metrics import Metrics
from runtime.store.store import Store, open_store
from runtime.store.write.outcomes import Accepted, Appended
from tests.support.database_locks import POISON, blocked, poison
from tests.support.database_rows import until
from tests.support.tcp_proxy import Fault, lay_wire

QUICK = Settings(write_timeout=0.3, shutdown_timeout=0.3, command_timeout=2.0, pool_timeout=2.0)


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


async def contents(store: Store, session_id: str) -> list[str]:
    page = await store.list_messages(session_id, limit=1000)
    return [message["content"] for message in page.messages]


async def test_w2_many_callers_share_one_transaction(database_url: str) -> None:
    metrics = Metrics()
    async with open_store(database_url, metrics=metrics) as store:
        await store.create_session("s")
        before = _value(metrics, "transactions_total")
        await asyncio.gather(*(store.append_messages("s", [user(str(n))]) for n in range(500)))
        assert _value(metrics, "transactions_total") - before <= 3


async def test_w3_commands_of_all_kinds_take_effect_in_order(
    database_url: str,
) -> None:
    async with open_store(database_url) as store:
        await asyncio.gather(
            store.create_session("s"),
            store.append_messages("s", [user("1")]),
            store.switch_agent("s", "coder"),
            store.replace_messages("s", [user("1"), user("2")]),
            store.truncate_messages("s", after=1),
            store.append_messages("s", [user("3")]),
        )
        assert await contents(store, "s") == ["1", "3"]
        session = await store.get_session("s")
        assert (session.version, session.last_seq, session.message_count) == (6, 3, 2)


async def test_w3_a_command_that_fails_fails_alone(database_url: str) -> None:
    async with open_store(database_url) as store:
        await store.create_session("s")
        results = await asyncio.gather(
            store.append_messages("s", [user("1")]),
            store.append_messages("missing", [user("x")]),
            store.append_messages("s", [user("x")], if_match=1),
            store.append_messages("s", [user("2")]),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [Appended, SessionNotFound, VersionMismatch, Appended]
        assert await contents(store, "s") == ["1", "2"]


async def test_w5_what_is_acknowledged_is_there_after_a_restart(database_url: str) -> None:
    async with open_store(database_url) as store:
        await store.create_session("s")
        await store.append_messages("s", [user("committed")])
        accepted = await store.append_messages("s", [user("buffered")], durability="buffered")
        assert accepted == Accepted("s", 1)
    async with open_store(database_url) as store:
        assert await contents(store, "s") == ["committed", "buffered"]


async def test_w5_buffered_writes_share_one_flush(database_url: str) -> None:
    metrics = Metrics()
    async with open_store(database_url, Settings(durability="buffered"), metrics) as store:
        await store.create_session("s")
        before = _value(metrics, "transactions_total")
        for n in range(1000):
            await store.append_messages("s", [user(str(n))])
        assert _value(metrics, "pending_writes") == 1000
        assert await contents(store, "s") == [str(n) for n in range(1000)]
        assert _value(metrics, "transactions_total") - before == 1


async def test_w5_the_flush_interval_flushes(database_url: str) -> None:
    settings = Settings(durability="buffered", flush_interval=0.01)
    async with open_store(database_url, settings) as store:
        await store.create_session("s")
        async with store.follow("s") as follower:
            await store.append_messages("s", [user("x")])
            events = await follower.events(10)
            assert events is not None
            assert len(events) == 1


async def test_w5_an_unknown_session_is_refused_before_it_is_acknowledged(database_url: str) -> None:
    async with open_store(database_url) as store:
        with pytest.raises(SessionNotFound):
            await store.append_messages("missing", [user("x")], durability="buffered")


async def test_w6_a_read_sees_what_was_accepted(database_url: str) -> None:
    async with open_store(database_url) as store:
        await store.create_session("s")
        await store.append_messages("s", [user("1")], durability="buffered")
        assert (await store.get_session("s")).message_count == 1
        await store.append_messages("s", [user("2")], durability="buffered")
        assert (await store.list_sessions()).sessions[0].message_count == 2
        await store.append_messages("s", [user("3")], durability="buffered")
        assert (await store.get_history("s")).message_count == 3


@pytest.mark.parametrize("fault", ["cut before", "cut after"])
async def test_w7_a_lost_commit_is_decided_and_not_guessed(postgres_url: str, fault: Fault) -> None:
    async with lay_wire(postgres_url) as (wire, url), open_store(url) as store:
        await store.create_session("s")
        wire.once = True
        for n in range(20):
            if n % 4 == 0:
                wire.at_commit = fault
            appended = await store.append_messages("s", [user(str(n))])
            assert isinstance(appended, Appended)
            assert appended.last_seq == n + 1
        assert wire.faults == 5
        assert await contents(store, "s") == [str(n) for n in range(20)]


async def test_w7_a_commit_in_flight_at_shutdown_is_unconfirmed(postgres_url: str) -> None:
    async with lay_wire(postgres_url) as (wire, url), open_store(url, QUICK) as store:
        await store.create_session("s")
        wire.at_commit = "answer nothing"
        appending = asyncio.create_task(store.append_messages("s", [user("x")], idempotency_key="k"))
        await until(lambda: wire.frozen)
        assert await store.close(0.1) == 1
        with pytest.raises(Unconfirmed):
            await appending
    async with open_store(postgres_url) as store:
        assert (await store.append_messages("s", [user("x")], idempotency_key="k")).replayed
        assert await contents(store, "s") == ["x"]


@pytest.mark.slow
async def test_w7_a_line_that_goes_dead_holds_up_nobody_for_long(postgres_url: str) -> None:
    async with lay_wire(postgres_url) as (wire, url), open_store(postgres_url) as other:
        async with open_store(url, QUICK) as store:
            await store.create_session("s")
            wire.once, wire.at_commit = True, "go dead"
            with pytest.raises(NotStored):
                await store.append_messages("s", [user("lost")])
        # The server side of the dead line holds the session's lock until it times out.
        while not await _try_append(other, "s", "next"):
            pass
        assert await contents(other, "s") == ["next"]


async def test_w8_a_poisoned_message_is_refused_alone(database_url: str) -> None:
    await poison(database_url)
    async with open_store(database_url) as store:
        await store.create_session("s")
        texts = [POISON if n == 123 else str(n) for n in range(200)]
        results = await asyncio.gather(
            *(store.append_messages("s", [user(text)]) for text in texts), return_exceptions=True
        )
        assert [n for n, result in enumerate(results) if isinstance(result, RefusedByDatabase)] == [123]
        assert await contents(store, "s") == [text for text in texts if text != POISON]


async def test_w8_what_passes_its_deadline_is_not_stored_and_says_so(database_url: str) -> None:
    async with open_store(database_url, QUICK) as store:
        await store.create_session("s")
        async with blocked(database_url):
            with pytest.raises((DeadlinePassed, Unconfirmed)) as refused:
                await store.append_messages("s", [user("late")])
            assert refused.value.retry_after >= 1
        while not (await _try_append(store, "s", "after")):
            pass
        assert "late" not in await contents(store, "s")


async def _try_append(store: Store, session_id: str, content: str) -> bool:
    try:
        await store.append_messages(session_id, [user(content)])
    except NotStored:
        return False
    return True


async def test_w9_a_full_queue_refuses_at_once_and_keeps_what_it_has(database_url: str) -> None:
    settings = Settings(max_pending_bytes=20_000)
    async with open_store(database_url, settings) as store:
        await store.create_session("s")
        tasks = [asyncio.create_task(store.append_messages("s", [user("x" * 1000)])) for _ in range(50)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        stored = [result for result in results if isinstance(result, Appended)]
        refused = [result for result in results if isinstance(result, Overloaded)]
        assert len(stored) + len(refused) == 50
        assert len(stored) == len(await contents(store, "s")) > 0
        assert refused


async def test_w10_a_caller_that_goes_away_does_not_tear_a_batch(database_url: str) -> None:
    async with open_store(database_url) as store:
        await store.create_session("s")
        for turns in range(12):
            task = asyncio.create_task(store.append_messages("s", [user("a"), user("b")]))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await store.append_messages("s", [user("end")])
        told = await contents(store, "s")
        assert told[-1] == "end"
        assert told[:-1] == ["a", "b"] * (len(told) // 2)


async def test_w11_closing_stores_what_waits(database_url: str) -> None:
    async with open_store(database_url) as store:
        await store.create_session("s")
        tasks = [asyncio.create_task(store.append_messages("s", [user(str(n))])) for n in range(300)]
        await asyncio.sleep(0)
        assert await store.close(30) == 0
        assert all(isinstance(result, Appended) for result in await asyncio.gather(*tasks))
        with pytest.raises(ShuttingDown):
            await store.append_messages("s", [user("too late")])
    async with open_store(database_url) as store:
        assert len(await contents(store, "s")) == 300


async def test_w11_closing_is_bounded_and_counts_what_is_lost(database_url: str, caplog: Any) -> None:
    async with open_store(database_url, QUICK) as store:
        await store.create_session("s")
        for n in range(7):
            await store.append_messages("s", [user(str(n))], durability="buffered")
        async with blocked(database_url):
            assert await store.close(0.2) == 7
    assert "7 writes could not be stored" in caplog.text


async def test_w12_a_repeat_has_one_effect_and_the_first_reply(database_url: str) -> None:
    async with open_store(database_url) as store:
        await store.create_session("s", idempotency_key="k0")
        first, *repeats = await asyncio.gather(
            *(store.append_messages("s", [user("x")], idempotency_key="k") for _ in range(10))
        )
        assert isinstance(first, Appended)
        assert {repeat.replayed for repeat in repeats} == {True}
        with pytest.raises(KeyReused):
            await store.append_messages("s", [user("y")], idempotency_key="k")
    async with open_store(database_url) as store:
        again = await store.append_messages("s", [user("x")], idempotency_key="k")
        assert isinstance(again, Appended)
        assert (again.messages, again.version, again.replayed) == (first.messages, first.version, True)
        made = await store.create_session("s", idempotency_key="k0")
        assert (made.created, made.replayed) == (True, True)
        assert await contents(store, "s") == ["x"]


async def test_w12_a_buffered_repeat_has_one_effect(database_url: str) -> None:
    async with open_store(database_url) as store:
        await store.create_session("s")
        for replayed in (False, True):
            accepted = await store.append_messages(
                "s", [user("x")], durability="buffered", idempotency_key="k"
            )
            assert accepted.replayed is replayed
        assert await contents(store, "s") == ["x"]
        accepted = await store.append_messages("s", [user("x")], durability="buffered", idempotency_key="k")
        assert accepted.replayed
        with pytest.raises(KeyReused):
            await store.append_messages("s", [user("y")], durability="buffered", idempotency_key="k")
        assert await contents(store, "s") == ["x"]


async def test_w12_a_repeat_of_what_may_still_fail_is_stored_by_itself(database_url: str) -> None:
    async with open_store(database_url, QUICK) as store:
        await store.create_session("s")
        async with blocked(database_url):
            first = asyncio.create_task(store.append_messages("s", [user("x")], idempotency_key="k"))
            await asyncio.sleep(0)
            accepted = await store.append_messages(
                "s", [user("x")], durability="buffered", idempotency_key="k"
            )
            assert accepted == Accepted("s", 1)
            with pytest.raises(NotStored):
                await first
        assert await store.close(30) == 0
    async with open_store(database_url) as store:
        assert await contents(store, "s") == ["x"]


async def test_w12_two_buffered_requests_under_one_key_are_told_apart(database_url: str) -> None:
    async with open_store(database_url) as store:
        await store.create_session("s")
        results = await asyncio.gather(
            *(
                store.append_messages("s", [user(text)], durability="buffered", idempotency_key="k")
                for text in ("a", "b")
            ),
            return_exceptions=True,
        )
        assert {type(result) for result in results} == {Accepted, KeyReused}
        taken = "a" if isinstance(results[0], Accepted) else "b"
        assert await contents(store, "s") == [taken]


async def test_w5_a_deleted_session_is_refused_before_it_is_acknowledged(database_url: str) -> None:
    async with open_store(database_url) as store:
        await store.create_session("s")
        await store.delete_session("s")
        with pytest.raises(SessionNotFound):
            await store.replace_messages("s", [user("x")], create=True, durability="buffered")


async def test_w9_callers_who_come_when_the_queue_is_late_are_refused_at_once(database_url: str) -> None:
    async with open_store(database_url, QUICK) as store:
        await store.create_session("s")
        async with blocked(database_url):
            waiting = asyncio.create_task(store.append_messages("s", [user("early")]))
            while not await _is_refused_at_once(store):
                assert not waiting.done()
            await asyncio.gather(waiting, return_exceptions=True)


async def _is_refused_at_once(store: Store) -> bool:
    try:
        await asyncio.wait_for(store.append_messages("s", [user("late")]), 0.01)
    except Overloaded:
        return True
    except TimeoutError:
        pass
    return False


async def test_w12_the_same_key_at_two_instances_has_one_effect(postgres_url: str) -> None:
    async with open_store(postgres_url) as one, open_store(postgres_url) as two:
        await one.create_session("s")
        results = await asyncio.gather(
            *(
                store.append_messages("s", [user("x")], idempotency_key="k")
                for store in (one, two)
                for _ in range(5)
            )
        )
        assert sum(not result.replayed for result in results) == 1
        assert await contents(one, "s") == await contents(two, "s") == ["x"]


async def test_two_instances_make_the_same_session_once(postgres_url: str) -> None:
    async with open_store(postgres_url) as one, open_store(postgres_url) as two:
        for n in range(20):
            made = await asyncio.gather(
                *(store.create_session(f"s{n}", if_missing=True) for store in (one, two))
            )
            assert sum(written.created for written in made) == 1


def _value(metrics: Metrics, name: str) -> float:
    value = metrics.registry.get_sample_value(f"agent_runtime_{name}")
    assert value is not None
    return value
