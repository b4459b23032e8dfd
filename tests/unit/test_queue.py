"""The queue of writes: bounded, in order, each with its deadline. Time is virtual: nothing here waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import DeadlinePassed, NotStored, Overloaded, Unconfirmed
from runtime.store.records import SessionKey
from runtime.store.write import queue as queue_module
from runtime.store.write.commands import (
    COMMAND_OVERHEAD,
    IdempotencyKey,
    Request,
    UpdateContext,
    fingerprint,
    weight,
)
from runtime.store.write.outcomes import Outcome
from runtime.store.write.queue import MAX_BATCH_COMMANDS, Pending, WriteLimits, WriteQueue
from tests.unit.virtual_time import VirtualTimeLoop

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
LIMITS = WriteLimits(max_pending_bytes=1_000_000, write_timeout=10.0, flush_interval=5.0)
DONE = Outcome(session_id="s", version=1)


def request(text: str = "{}", session_id: str = "s", key: str | None = None) -> Request:
    session = SessionKey("", session_id)
    command = UpdateContext(session, text)
    idempotency = None if key is None else IdempotencyKey(key, fingerprint(command))
    return Request(command, session, NOON, idempotency=idempotency, size=weight(command))


def in_virtual_time(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """The test as pytest runs it: on a loop of its own."""

    def run() -> None:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(test())

    run.__name__ = run.__qualname__ = test.__name__
    return run


def now() -> float:
    return asyncio.get_running_loop().time()


def texts(batch: list[Pending]) -> list[str]:
    return [pending.request.command.metadata for pending in batch]  # type: ignore[attr-defined]


async def error_of(future: asyncio.Future[Outcome]) -> type[Exception]:
    with pytest.raises(NotStored) as refused:
        await future
    return refused.type


@in_virtual_time
async def test_w3_writes_leave_in_the_order_in_which_they_came() -> None:
    queue = WriteQueue(LIMITS)
    queue.submit(request("1"))
    queue.accept(request("2"))
    queue.submit(request("3", "other"))
    assert texts(queue.take()) == ["1", "2", "3"]
    assert texts(queue.take()) == []
    queue.close()


@in_virtual_time
async def test_w9_the_queue_is_bounded_in_bytes() -> None:
    size = weight(request().command)
    queue = WriteQueue(WriteLimits(max_pending_bytes=3 * size))
    for submit in (queue.submit, queue.accept, queue.submit):
        submit(request())
    for submit in (queue.submit, queue.accept):
        with pytest.raises(Overloaded):
            submit(request())
    assert (queue.count, queue.bytes, len(queue)) == (3, 3 * size, 3)
    queue.close()


@in_virtual_time
async def test_w9_what_is_in_flight_counts_until_it_is_forgotten() -> None:
    queue = WriteQueue(WriteLimits(max_pending_bytes=weight(request().command)))
    queue.submit(request())
    batch = queue.take()
    with pytest.raises(Overloaded):
        queue.submit(request())
    queue.forget(batch)
    queue.submit(request())
    queue.close()


@in_virtual_time
async def test_w9_the_queue_is_bounded_in_commands() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queue_module, "MAX_PENDING_COMMANDS", 2)
        queue = WriteQueue(LIMITS)
        queue.submit(request())
        queue.accept(request())
        with pytest.raises(Overloaded):
            queue.submit(request())
        queue.close()


@in_virtual_time
async def test_w9_a_write_larger_than_the_bound_is_taken_when_alone() -> None:
    queue = WriteQueue(WriteLimits(max_pending_bytes=10))
    queue.submit(request("x" * 1000))
    with pytest.raises(Overloaded):
        queue.submit(request())
    queue.close()


@in_virtual_time
async def test_w9_nobody_joins_while_the_oldest_has_waited_for_half_of_its_time() -> None:
    queue = WriteQueue(LIMITS)
    queue.submit(request())
    batch = queue.take()
    await asyncio.sleep(5)
    queue.accept(request())
    await asyncio.sleep(0.1)
    for submit in (queue.submit, queue.accept):
        with pytest.raises(Overloaded):
            submit(request())
    queue.forget(batch)
    queue.submit(request())
    queue.close()


@in_virtual_time
async def test_w9_what_is_stored_is_not_held_until_its_deadline() -> None:
    queue = WriteQueue(LIMITS)
    for _ in range(100):
        queue.submit(request())
        queue.forget(queue.take())
    assert len(queue._deadlines) == 0
    queue.close()


@given(sizes=st.lists(st.integers(0, 40), max_size=30), most=st.integers(1, 5), most_bytes=st.integers(1, 90))
def test_w2_batches_are_bounded_and_keep_the_order(sizes: list[int], most: int, most_bytes: int) -> None:
    async def drain() -> None:
        queue = WriteQueue(LIMITS)
        for size in sizes:
            queue.submit(request("x" * size))
        taken: list[str] = []
        while batch := queue.take():
            assert len(batch) <= most
            assert sum(pending.size for pending in batch[:-1]) < most_bytes + COMMAND_OVERHEAD
            assert queue.due.is_set()
            taken += texts(batch)
            queue.forget(batch)
        assert [len(text) for text in taken] == sizes
        assert (queue.count, queue.bytes) == (0, 0)
        queue.close()

    with pytest.MonkeyPatch.context() as patch, asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        patch.setattr(queue_module, "MAX_BATCH_COMMANDS", most)
        patch.setattr(queue_module, "MAX_BATCH_BYTES", most_bytes + COMMAND_OVERHEAD)
        runner.run(drain())


@in_virtual_time
async def test_forgetting_twice_counts_once() -> None:
    queue = WriteQueue(LIMITS)
    queue.submit(request("1"))
    batch = queue.take()
    queue.submit(request("2"))
    queue.forget(batch)
    queue.forget(batch)
    assert (queue.count, queue.bytes) == (1, weight(request("2").command))
    assert texts(queue.unfinished()) == ["2"]
    queue.close()


@in_virtual_time
async def test_w8_who_cannot_be_stored_in_time_is_told_when_the_batch_is_taken() -> None:
    queue = WriteQueue(LIMITS)
    early = queue.submit(request("1"))
    await asyncio.sleep(4)
    late = queue.submit(request("2"))
    queue.accept(request("3"))
    await asyncio.sleep(4)
    assert texts(queue.take(seconds=3)) == ["2", "3"]
    assert await error_of(early) is DeadlinePassed
    assert now() == 8
    assert not late.done()
    assert queue.count == 2
    queue.close()


@in_virtual_time
async def test_w8_a_slow_batch_leaves_half_of_the_time_to_the_next() -> None:
    queue = WriteQueue(LIMITS)
    queue.submit(request("1"))
    await asyncio.sleep(4)
    assert texts(queue.take(seconds=60)) == ["1"]
    queue.close()


@in_virtual_time
async def test_w9_a_write_is_refused_when_the_oldest_waits_too_long() -> None:
    queue = WriteQueue(LIMITS)
    queue.submit(request("1"))
    await asyncio.sleep(5)
    queue.submit(request("2"))
    await asyncio.sleep(1)
    with pytest.raises(Overloaded):
        queue.submit(request("3"))
    queue.forget(queue.take())
    queue.submit(request("4"))
    queue.close()


@in_virtual_time
async def test_w8_each_caller_is_told_at_its_own_deadline() -> None:
    queue = WriteQueue(LIMITS)
    first = queue.submit(request("1"))
    await asyncio.sleep(4)
    second = queue.submit(request("2"))
    assert await error_of(first) is DeadlinePassed
    assert now() == 10
    assert not second.done()
    assert await error_of(second) is DeadlinePassed
    assert now() == 14
    assert all(pending.abandoned for pending in queue.take())
    queue.close()


@in_virtual_time
async def test_w8_a_deadline_that_passes_behind_one_that_was_met_is_noticed() -> None:
    queue = WriteQueue(LIMITS)
    met = queue.submit(request("1"))
    batch = queue.take()
    await asyncio.sleep(1)
    missed = queue.submit(request("2"))
    queue.forget(batch)
    batch[0].resolve(DONE)
    assert await met is DONE
    assert await error_of(missed) is DeadlinePassed
    assert now() == 11
    queue.close()


@in_virtual_time
async def test_w8_a_deadline_after_a_quiet_time_is_noticed() -> None:
    queue = WriteQueue(LIMITS)
    queue.submit(request("1"))
    queue.forget(queue.take())
    await asyncio.sleep(100)
    assert await error_of(queue.submit(request("2"))) is DeadlinePassed
    assert now() == 110
    queue.close()


@in_virtual_time
async def test_w7_who_waits_for_a_commit_is_told_that_it_is_unconfirmed() -> None:
    queue = WriteQueue(LIMITS)
    future = queue.submit(request())
    (pending,) = queue.take()
    pending.committing = True
    assert await error_of(future) is Unconfirmed
    queue.close()


@in_virtual_time
async def test_w8_what_was_accepted_has_no_deadline() -> None:
    queue = WriteQueue(LIMITS)
    queue.accept(request())
    await asyncio.sleep(1000)
    assert [pending.abandoned for pending in queue.take()] == [False]
    queue.close()


@in_virtual_time
async def test_w10_a_cancelled_caller_does_not_change_its_write() -> None:
    queue = WriteQueue(LIMITS)
    queue.submit(request()).cancel()
    await asyncio.sleep(9)
    (pending,) = queue.take()
    assert not pending.abandoned
    await asyncio.sleep(2)
    assert pending.abandoned
    pending.resolve(DONE)
    queue.close()


@in_virtual_time
async def test_w2_a_write_that_somebody_waits_for_is_due_at_once() -> None:
    queue = WriteQueue(LIMITS)
    queue.submit(request())
    assert queue.due.is_set()
    queue.close()


@in_virtual_time
async def test_w5_what_was_accepted_is_due_when_the_flush_interval_has_passed() -> None:
    queue = WriteQueue(LIMITS)
    queue.accept(request())
    await asyncio.sleep(3)
    queue.accept(request())
    assert not queue.due.is_set()
    await queue.due.wait()
    assert now() == 5
    queue.close()


@in_virtual_time
async def test_w5_the_flush_interval_begins_anew_behind_a_batch() -> None:
    queue = WriteQueue(LIMITS)
    queue.accept(request())
    await asyncio.sleep(3)
    queue.take()
    queue.accept(request())
    await queue.due.wait()
    assert now() == 8
    queue.close()


@in_virtual_time
async def test_w5_much_that_was_accepted_is_due_at_once() -> None:
    queue = WriteQueue(WriteLimits(max_pending_bytes=10**9))
    for _ in range(MAX_BATCH_COMMANDS - 1):
        queue.accept(request())
    assert not queue.due.is_set()
    queue.accept(request())
    assert queue.due.is_set()
    queue.close()


@in_virtual_time
async def test_w6_the_last_write_that_was_accepted_is_found_until_it_is_stored() -> None:
    queue = WriteQueue(LIMITS)
    for text, session_id in (("1", "a"), ("2", "a"), ("3", "b")):
        queue.accept(request(text, session_id))
    queue.submit(request("4", "c"))
    keys = (SessionKey("", "a"), SessionKey("", "b"), SessionKey("", "c"), None)
    assert [found(queue, key) for key in keys] == ["2", "3", None, "3"]
    batch = queue.take()
    assert [found(queue, key) for key in keys] == ["2", "3", None, "3"]
    queue.accept(request("5", "a"))
    queue.forget(batch)
    assert [found(queue, key) for key in keys] == ["5", None, None, "5"]
    queue.close()


def found(queue: WriteQueue, key: SessionKey | None) -> str | None:
    pending = queue.find_accepted(key)
    return None if pending is None else texts([pending])[0]


@in_virtual_time
async def test_w12_a_key_is_known_until_its_request_is_stored() -> None:
    queue = WriteQueue(LIMITS)
    queue.accept(request("1", key="k"))
    earlier = queue.find_key("", "k")
    assert earlier is not None
    assert texts([earlier]) == ["1"]
    assert queue.find_key("someone else", "k") is None
    queue.forget(queue.take())
    assert queue.find_key("", "k") is None
    queue.close()


@in_virtual_time
async def test_w5_the_lag_is_that_of_the_oldest_write() -> None:
    queue = WriteQueue(LIMITS)
    assert queue.lag() == 0
    queue.accept(request())
    waiting = queue.lag()
    batch = queue.take()
    assert queue.lag() >= waiting >= 0
    queue.forget(batch)
    assert queue.lag() == 0
    queue.close()
