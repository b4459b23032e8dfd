"""Forks: a session copied up to a message goes on by itself, on both databases."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from runtime.errors import (
    InvalidInput,
    KeyReused,
    SessionExists,
    SessionNotFound,
    VersionMismatch,
)
from runtime.models import ForkOrigin
from runtime.store import forks
from runtime.store.store import Store, open_store
from tests.migrations.catalogue import query
from tests.support.delayed_database import delayed_store
from tests.support.held_eraser import count, erased
from tests.support.long_sessions import make_session
from tests.support.running_turns import Clock, user
from tests.support.two_instances import two_instances

pytestmark = pytest.mark.slow

LENGTH = 3500
# With each kind of field, and one that is not known.
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief.", "metadata": {"n": 1.10}, "colour": {"deep": ["\u0000"]}},
    {"role": "user", "content": [{"type": "text", "text": "Grüße 😀"}], "name": "Zoë", "token_count": 7},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "function": {"name": "look"}}]},
    {"role": "tool", "content": "42", "tool_call_id": "c1", "token_count": 3},
    {"role": "assistant", "content": "Two."},
]


@pytest.fixture
def portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long sessions are copied in many portions."""
    monkeypatch.setattr(forks, "FIRST_ROWS", 100)
    monkeypatch.setattr(forks, "MOST_ROWS", 300)


async def messages(store: Store, session_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while page := (
        await store.list_messages(session_id, after=found[-1]["seq"] if found else 0, limit=1000)
    ).messages:
        found += page
    return found


async def check(store: Store, session_id: str = "f") -> None:
    """What the head counts is what is stored, in every way to read it."""
    found = await messages(store, session_id)
    session, stats = await store.get_session(session_id), await store.get_stats(session_id)
    assert session.message_count == len(found) == stats.message_count
    assert stats.total_tokens == sum(message.get("token_count") or 0 for message in found)
    last = await store.list_messages(session_id, last=3)
    assert last.messages == found[-3:]
    assert await store._core.database.fetch("list_wrong_heads", 10) == []


async def test_a_fork_has_everything_up_to_a_message(store: Store, clock: Clock) -> None:
    await store.create_session("s", messages=MESSAGES[:2], metadata={"k": {"a": 1.10}}, agent="ask")
    clock.pass_seconds(60)
    await store.switch_agent("s", "coder", reason="why", metadata={"m": 1})
    clock.pass_seconds(60)
    await store.append_messages("s", MESSAGES[2:])
    await store.create_approval("s", "c1", "look", {})
    clock.pass_seconds(60)
    await store.switch_agent("s", "writer")
    await store.update_session("s", is_active=False)
    source, before = await store.get_session("s"), await messages(store, "s")

    clock.pass_seconds(60)
    forked = await store.fork_session("s", "f")
    assert (forked.session_id, forked.version, forked.created) == ("f", 1, True)
    assert forked.session == await store.get_session("f")
    assert forked.session.forked_from == ForkOrigin("s", 5)
    assert (forked.session.created_at, forked.session.last_activity) == (clock.now, clock.now)
    assert (forked.session.title, forked.session.metadata) == (source.title, {"k": {"a": 1.10}})
    assert (forked.session.is_active, forked.session.current_agent) == (True, "writer")
    assert await messages(store, "f") == before
    assert await store.list_agent_history("f") == await store.list_agent_history("s")
    assert (await store.list_approvals("f")).approvals == []
    assert (await store.get_context("f")).switch_count == 2
    await check(store)

    # Up to a message, the agent is the one of its time.
    for after, agent, switches in ((0, "ask", 0), (2, "ask", 0), (3, "coder", 1), (5, "coder", 1)):
        part = (await store.fork_session("s", f"f{after}", after=after, title="Part", metadata={})).session
        assert (part.current_agent, part.last_seq) == (agent, after)
        assert part.forked_from == ForkOrigin("s", after)
        assert (part.title, part.metadata) == ("Part", {})
        assert await messages(store, f"f{after}") == before[:after]
        assert len((await store.list_switches(f"f{after}")).switches) == switches
        await check(store, f"f{after}")
    assert await store.get_session("s") == source


async def test_an_untitled_fork_is_named_after_its_own_first_question(store: Store) -> None:
    await store.create_session("s", messages=[MESSAGES[0], user("The question")])
    assert (await store.fork_session("s", "f", after=1)).session.title is None
    await store.append_messages("f", [user("Another")])
    assert (await store.get_session("f")).title == "Another"
    assert (await store.fork_session("s", "g")).session.title == "The question"


async def test_both_go_on_independently(store: Store) -> None:
    await store.create_session("s", messages=MESSAGES)
    await store.fork_session("s", "f", after=3)
    appended = await store.append_messages("f", [user("mine")])
    assert [receipt.seq for receipt in appended.messages] == [4]
    await store.truncate_messages("s", after=1)
    await store.append_messages("s", [user("theirs")])
    await store.switch_agent("f", "coder")
    await store.update_session("f", metadata={"k": 1})
    assert [message["seq"] for message in await messages(store, "f")] == [1, 2, 3, 4]
    assert [message["seq"] for message in await messages(store, "s")] == [1, 6]
    assert (await store.get_session("s")).current_agent == "orchestrator"
    assert [s.session_id for s in (await store.list_sessions(metadata={"k": 1}, agent="coder")).sessions] == [
        "f"
    ]
    await check(store)
    await check(store, "s")


async def test_a_fork_of_a_fork_outlives_its_originals(store: Store) -> None:
    await store.create_session("s", messages=MESSAGES)
    await store.fork_session("s", "f", after=4)
    await store.fork_session("f", "g", after=2)
    before = await messages(store, "g")
    await store.delete_session("s")
    await store.delete_session("f", hard=True)
    assert (await store.get_session("g")).forked_from == ForkOrigin("f", 2)
    assert await messages(store, "g") == before
    with pytest.raises(SessionNotFound, match="'s' is deleted"):
        await store.fork_session("s", "h")
    with pytest.raises(SessionNotFound, match="'f' does not exist"):
        await store.fork_session("f", "h")


async def test_what_cannot_be_forked_is_refused(store: Store) -> None:
    made = await store.create_session("s", messages=MESSAGES)
    await store.create_session("taken")
    with pytest.raises(SessionExists):
        await store.fork_session("s", "taken")
    with pytest.raises(SessionExists):
        await store.fork_session("s", "s")
    with pytest.raises(InvalidInput, match="a number up to 5, that of the last message"):
        await store.fork_session("s", "f", after=6)
    with pytest.raises(VersionMismatch):
        await store.fork_session("s", "f", if_match=made.version + 1)
    with pytest.raises(SessionNotFound):
        await store.fork_session("s", "f", owner="bob")
    with pytest.raises(SessionNotFound):
        await store.get_session("f")
    await store.fork_session("s", "f", if_match=made.version)


async def test_w12_a_repeated_fork_is_answered_as_the_first(store: Store) -> None:
    await store.create_session("s", messages=MESSAGES)
    first = await store.fork_session("s", after=3, idempotency_key="k")
    await store.append_messages(first.session_id, [user("more")])
    again = await store.fork_session("s", after=3, idempotency_key="k")
    assert (again.session_id, again.replayed, again.session) == (first.session_id, True, first.session)
    assert again.session.forked_from == ForkOrigin("s", 3)
    with pytest.raises(KeyReused):
        await store.fork_session("s", after=4, idempotency_key="k")


# Long sessions: copied in portions, and visible at once.


async def test_a_long_session_is_forked_whole(database_url: str, portions: None) -> None:
    await make_session(database_url, "s", LENGTH)
    async with open_store(database_url) as store:
        await store.append_messages("s", MESSAGES)
        await store.fork_session("s", "f", idempotency_key="k")
        await store.fork_session("s", "g", after=LENGTH - 1)
        assert await messages(store, "f") == await messages(store, "s")
        assert await messages(store, "g") == (await messages(store, "s"))[:-6]
        await check(store)
        await check(store, "g")
        assert (await store.fork_session("s", "f", idempotency_key="k")).replayed
        await erased(store)
    assert query(database_url, "SELECT count(*) FROM unfinished_forks") == [(0,)]
    assert count(database_url, "sessions") == 3


async def test_messages_that_a_cut_removed_are_not_copied(database_url: str, portions: None) -> None:
    await make_session(database_url, "s", LENGTH)
    async with delayed_store(database_url) as (store, database):
        delay = database.delay("before", "find_erasable")
        await delay.reached.wait()
        await store.truncate_messages("s", after=1500)
        await store.append_messages("s", MESSAGES)
        await store.fork_session("s", "f")
        await store.fork_session("s", "g", after=2000)
        seqs = [message["seq"] for message in await messages(store, "f")]
        assert seqs == [*range(1, 1501), *range(LENGTH + 1, LENGTH + 6)]
        assert [message["seq"] for message in await messages(store, "g")] == [*range(1, 1501)]
        assert count(database_url, "messages WHERE session_db_id = 1") > 3000, "they wait to be erased"
        delay.release.set()
        await check(store)
        await check(store, "g")


async def test_a_fork_is_made_again_where_its_source_is_cut_meanwhile(
    database_url: str, portions: None
) -> None:
    await make_session(database_url, "s", LENGTH)
    async with delayed_store(database_url) as (store, database):
        delay = database.delay("before", "sum_messages_after")
        forking = asyncio.create_task(store.fork_session("s", "f"))
        await delay.reached.wait()
        with pytest.raises(SessionNotFound):
            await store.get_session("f")
        cut = asyncio.create_task(store.truncate_messages("s", after=2000))
        delay.release.set()
        await asyncio.gather(cut, forking)
        session = await store.get_session("f")
        assert session.message_count in (2000, LENGTH)
        await check(store)
        await erased(store)
    assert count(database_url, "sessions") == 2


@pytest.mark.parametrize("how", ["delete", "erase", "take the name"])
async def test_a_fork_that_fails_leaves_nothing(database_url: str, portions: None, how: str) -> None:
    await make_session(database_url, "s", LENGTH)
    async with delayed_store(database_url) as (store, database):
        delay = database.delay("before", "sum_messages_after")
        forking = asyncio.create_task(store.fork_session("s", "f"))
        await delay.reached.wait()
        if how == "take the name":
            await store.create_session("f")
        else:
            await store.delete_session("s", hard=how == "erase")
        delay.release.set()
        with pytest.raises(SessionExists if how == "take the name" else SessionNotFound):
            await forking
        async with asyncio.timeout(60):
            while count(database_url, "unfinished_forks"):  # noqa: ASYNC110 - no event says so
                await asyncio.sleep(0.01)
        await erased(store)
    left = {"delete": (LENGTH, 1), "erase": (0, 0), "take the name": (LENGTH, 2)}
    assert (count(database_url), count(database_url, "sessions")) == left[how]


async def test_a_caller_that_goes_away_leaves_nothing(database_url: str, portions: None) -> None:
    await make_session(database_url, "s", LENGTH)
    async with delayed_store(database_url) as (store, database):
        delay = database.delay("after", "sum_messages_after")
        forking = asyncio.create_task(store.fork_session("s", "f"))
        await delay.reached.wait()
        forking.cancel()
        delay.release.set()
        await asyncio.wait([forking])
        async with asyncio.timeout(60):
            while count(database_url, "unfinished_forks"):  # noqa: ASYNC110 - no event says so
                await asyncio.sleep(0.01)
        await erased(store)
        with pytest.raises(SessionNotFound):
            await store.get_session("f")
    assert (count(database_url), count(database_url, "sessions")) == (LENGTH, 1)


async def test_a_fork_under_load_is_a_beginning_of_its_source(database_url: str, portions: None) -> None:
    """Writes to the source go on while it is copied, and wait for no more than a portion."""
    await make_session(database_url, "s", LENGTH)
    async with open_store(database_url) as store:
        forking = asyncio.create_task(store.fork_session("s", "f"))
        written = 0
        while not forking.done():
            await store.append_messages("s", [user(f"message {written}")])
            written += 1
        forked = (await forking).session
        assert written > LENGTH / 300 / 2, "it is not held up by the copying"
        everything = await messages(store, "s")
        assert await messages(store, "f") == everything[: forked.message_count]
        assert LENGTH <= forked.message_count <= LENGTH + written
        await check(store)


async def act(store: Store, n: int) -> None:
    """The n-th command of those that are given at the same time."""
    match n % 5:
        case 0:
            await store.append_messages("s", [user(f"m{n}")])
        case 1:
            await store.fork_session("s", f"f{n}")
        case 2:
            await store.truncate_messages("s", after=n)
        case 3:
            with contextlib.suppress(InvalidInput):
                await store.fork_session("s", f"f{n}", after=n // 2)
        case 4:
            await store.switch_agent("s", f"agent {n}")


async def act_on(store: Store, numbers: Iterator[int]) -> None:
    for n in itertools.islice(numbers, 8):
        await act(store, n)


async def test_w3_forks_among_other_commands_are_whole(store: Store) -> None:
    await store.create_session("s", messages=MESSAGES)
    numbers = itertools.count()
    await asyncio.gather(*(act_on(store, numbers) for _ in range(10)))
    for session in (await store.list_sessions(limit=100)).sessions:
        await check(store, session.session_id)


async def test_one_name_is_given_to_one_of_many_forks(store: Store) -> None:
    await store.create_session("s", messages=MESSAGES)
    made = await asyncio.gather(
        *(store.fork_session("s", "f", after=n % 5) for n in range(10)), return_exceptions=True
    )
    assert sum(isinstance(each, SessionExists) for each in made) == 9
    await check(store)


async def test_two_instances_fork_what_the_other_has_written(postgres_url: str, portions: None) -> None:
    async with two_instances(postgres_url) as (here, there):
        await here.append_messages("s", MESSAGES)
        await there.fork_session("s", "f")
        await here.append_messages("f", [user("here")])
        await there.append_messages("s", [user("there")])
        for store in (here, there):
            assert [message["seq"] for message in await messages(store, "f")] == [1, 2, 3, 4, 5, 6]
            assert (await messages(store, "f"))[-1]["content"] == "here"
            assert (await store.get_session("f")).forked_from == ForkOrigin("s", 5)
        await here.append_messages("s", [user(str(n)) for n in range(LENGTH)])
        forked = await asyncio.gather(
            *((here, there)[n % 2].fork_session("s", f"long {n}") for n in range(4))
        )
        assert [each.session.message_count for each in forked] == [LENGTH + 6] * 4
        await there.delete_session("s", hard=True)
        for n in range(4):
            await check((there, here)[n % 2], f"long {n}")
