"""Appends that one instance plans from memory while another writes to the same session (W2, W4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import psycopg
import pytest

from runtime.config import Settings
from runtime.errors import KeyReused, SessionNotFound, VersionMismatch
from runtime.metrics import Metrics
from runtime.store.store import Store, open_store
from runtime.store.write.outcomes import Accepted, Appended

pytestmark = pytest.mark.slow

TURNS = 20
DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


class Instances(NamedTuple):
    """Two stores on one Postgres. `here` knows the session s as it was made: version 2, messages a and b."""

    here: Store
    there: Store
    metrics: Metrics
    remembers: bool

    @property
    def conflicts(self) -> float:
        """How many batches of `here` were planned from what had changed."""
        name, labels = "agent_runtime_flush_failures_total", {"reason": "conflict"}
        return self.metrics.registry.get_sample_value(name, labels) or 0

    def check_conflicts(self) -> None:
        """There were some, but where `here` has no memory to plan from."""
        assert (self.conflicts > 0) is self.remembers


@pytest.fixture(params=[Settings().cache_bytes, 0], ids=["remembering", "forgetting"])
async def instances(
    request: pytest.FixtureRequest, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Instances]:
    settings, metrics = Settings(cache_bytes=request.param), Metrics()
    async with (
        open_store(postgres_url, settings, metrics) as here,
        open_store(postgres_url, settings) as there,
    ):
        # News of a deletion come too late: a write of `here` is planned before it drops the session.
        monkeypatch.setattr(here._core.subscriptions, "_on_deleted", lambda id: None)
        await here.create_session("s", messages=[user("a")])
        await append(here, "b")
        yield Instances(here, there, metrics, remembers=request.param > 0)


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


async def append(store: Store, content: str, session_id: str = "s", **options: Any) -> Appended:
    written = await store.append_messages(session_id, [user(content)], **options)
    assert isinstance(written, Appended)
    return written


async def stored(store: Store, session_id: str = "s") -> list[tuple[int, str]]:
    """The number and the content of every message."""
    page = await store.list_messages(session_id, limit=1000)
    return [(message["seq"], message["content"]) for message in page.messages]


async def test_w4_appends_by_turns_leave_no_gap_and_give_no_number_twice(instances: Instances) -> None:
    here, there, *_ = instances
    for n in range(TURNS):
        store = (there, here)[n % 2]
        written = await append(store, str(n))
        assert (written.messages[0].seq, written.version) == (n + 3, n + 3)
    instances.check_conflicts()
    wanted = list(enumerate(["a", "b", *map(str, range(TURNS))], 1))
    assert await stored(here) == await stored(there) == wanted
    assert (await here.get_session("s")).message_count == TURNS + 2


async def test_w4_concurrent_appends_leave_no_gap_and_no_double(
    instances: Instances,
) -> None:
    here, there, *_ = instances

    async def write(store: Store, name: str) -> list[int]:
        return [(await append(store, f"{name} {n}")).messages[0].seq for n in range(TURNS)]

    numbers = await asyncio.gather(
        *(
            write(store, f"{place} {writer}")
            for place, store in enumerate((here, there))
            for writer in range(3)
        )
    )
    assert sorted(seq for each in numbers for seq in each) == list(range(3, 6 * TURNS + 3))
    told = dict(await stored(here))
    assert list(told) == list(range(1, 6 * TURNS + 3))
    assert all([told[seq][4:] for seq in each] == [str(n) for n in range(TURNS)] for each in numbers)


async def test_a_session_that_was_deleted_meanwhile_is_not_found(instances: Instances) -> None:
    await instances.there.delete_session("s")
    with pytest.raises(SessionNotFound):
        await append(instances.here, "c")
    instances.check_conflicts()


@pytest.mark.parametrize("count", [1, 20])
async def test_a_session_that_was_erased_meanwhile_is_not_found(instances: Instances, count: int) -> None:
    await instances.there.delete_session("s", hard=True)
    for _ in range(2):
        with pytest.raises(SessionNotFound):
            await instances.here.append_messages("s", [user("c")] * count)


async def test_a_session_that_was_erased_and_made_anew_is_another_one(instances: Instances) -> None:
    here, there = instances.here, instances.there
    await there.delete_session("s", hard=True)
    await there.create_session("s")
    written = [await append(here, content) for content in ("new", "newer")]
    assert [(each.messages[0].seq, each.version) for each in written] == [(1, 2), (2, 3)]
    assert (await here.list_messages("s")).seqs == [1, 2]
    assert isinstance(await here.append_messages("s", [user("newest")], durability="buffered"), Accepted)
    assert (await here.list_messages("s")).seqs == [1, 2, 3]


async def test_batches_that_share_sessions_do_not_deadlock(instances: Instances, postgres_url: str) -> None:
    here, there = instances.here, instances.there
    await here.create_session("z")
    await append(there, "c")
    for store in (here, there):
        await append(store, "warm", "z")
    for n in range(5):
        await asyncio.gather(
            here.update_session("z", title=f"{n}"),
            append(here, "x"),
            there.update_session("s", title=f"{n}"),
            append(there, "y", "z"),
        )
    # Postgres finds a circle after a second, breaks it, and counts it.
    with psycopg.connect(postgres_url) as connection:
        [deadlocks] = connection.execute(DEADLOCKS).fetchone() or (None,)
    assert deadlocks == 0


async def test_a_session_that_was_deleted_and_restored_goes_on(instances: Instances) -> None:
    here, there, *_ = instances
    await there.delete_session("s")
    await there.restore_session("s")
    written = await append(here, "c")
    assert (written.messages[0].seq, written.version) == (3, 5)
    instances.check_conflicts()


async def test_a_session_that_is_deleted_here_and_restored_there_goes_on(instances: Instances) -> None:
    here, there, *_ = instances
    await here.delete_session("s")
    with pytest.raises(SessionNotFound):
        await append(here, "c")
    await there.restore_session("s")
    assert (await append(here, "c")).version == 5
    # Whatever may be refused is decided by a head that is locked.
    assert instances.conflicts == 0


async def test_w4_a_number_that_was_cut_off_meanwhile_is_not_given_again(instances: Instances) -> None:
    here, there, *_ = instances
    await append(there, "c")
    await there.truncate_messages("s", after=1)
    written = await append(here, "d")
    assert (written.messages[0].seq, written.version) == (4, 5)
    assert await stored(here) == await stored(there) == [(1, "a"), (4, "d")]
    assert (await there.get_session("s")).message_count == 2
    instances.check_conflicts()


async def test_a_session_that_was_handed_over_meanwhile_keeps_its_agent(instances: Instances) -> None:
    here, there, *_ = instances
    await there.switch_agent("s", "coder")
    assert (await append(here, "c")).version == 4
    session = await there.get_session("s")
    assert (session.version, session.current_agent, session.message_count) == (4, "coder", 3)
    instances.check_conflicts()


async def test_if_match_means_the_version_that_is_stored(instances: Instances) -> None:
    here, there, *_ = instances
    await append(there, "c")
    assert (await append(here, "d", if_match=3)).version == 4
    await append(there, "e")
    with pytest.raises(VersionMismatch):
        await append(here, "stale", if_match=4)
    assert (await append(here, "f", if_match=5)).version == 6
    # Decided by a head that is locked: nothing had to be planned anew.
    assert instances.conflicts == 0
    assert await stored(there) == list(enumerate("abcdef", 1))


async def test_w12_a_key_repeated_at_the_other_instance_has_one_effect(instances: Instances) -> None:
    here, there, *_ = instances
    first = await append(there, "c", idempotency_key="k")
    again = await append(here, "c", idempotency_key="k")
    assert (again.messages, again.version, again.replayed) == (first.messages, first.version, True)
    with pytest.raises(KeyReused):
        await append(here, "other", idempotency_key="k")
    assert (await append(here, "d", idempotency_key="k2")).messages[0].seq == 4
    assert (await append(there, "d", idempotency_key="k2")).replayed
    assert await stored(here) == await stored(there) == [(1, "a"), (2, "b"), (3, "c"), (4, "d")]
    instances.check_conflicts()


async def test_w8_a_session_that_moved_on_does_not_stop_the_others(
    instances: Instances,
) -> None:
    here, there, *_ = instances
    names = [f"s{n}" for n in range(10)]
    await asyncio.gather(*(here.create_session(name) for name in names))
    await append(there, "theirs", "s3")
    await there.delete_session("s5", hard=True)
    results = await asyncio.gather(*(append(here, name, name) for name in names * 2), return_exceptions=True)
    refused = [names[n % 10] for n, result in enumerate(results) if isinstance(result, SessionNotFound)]
    assert refused == ["s5", "s5"]
    assert sum(isinstance(result, Appended) for result in results) == 18
    for name in names[:5] + names[6:]:
        theirs = ["theirs"] if name == "s3" else []
        assert await stored(there, name) == list(enumerate([*theirs, name, name], 1))
    instances.check_conflicts()
