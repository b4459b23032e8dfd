"""Filtered lists of sessions, against a filter in plain Python over all of them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.errors import DatabaseUnavailable, InvalidInput, SessionNotFound
from runtime.models import Session
from runtime.store import labels
from runtime.store.read import session_lists
from runtime.store.store import Store, open_store
from tests.migrations.catalogue import query
from tests.support.running_turns import Clock, open_timed

pytestmark = pytest.mark.slow

EXAMPLES = settings().max_examples
AGENTS = ("orchestrator", "coder", "zz")
SCALARS = ("", "a", "5", "null", "\u0000", "é", "x" * 300, 5, 5.0, -1.5, True, None, 10**30)
VALUES = (*SCALARS, [1], {"k": "a"})
# Values as they may stand in a query.
TEXTS = ("", "a", "5", "5.0", "true", "null", "\u0000", "é", "x" * 300, str(10**30), "1")
KEYS = ("k", "é\u0000", "k" * 200)
MINUTES = 6
START = datetime(2026, 11, 21, 12, tzinfo=UTC)

metadata = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=2)
minutes = st.integers(0, MINUTES)
times = st.none() | minutes.map(lambda n: START + timedelta(minutes=n))
changes = st.lists(
    st.tuples(
        st.sampled_from(("create", "create", "patch", "switch", "rest", "delete", "restore", "append")),
        st.integers(0, 6),
        minutes,
        metadata,
        st.sampled_from(AGENTS),
    ),
    min_size=4,
    max_size=25,
)
filters = st.fixed_dictionaries(
    {},
    optional={
        "agent": st.sampled_from(AGENTS),
        "is_active": st.booleans(),
        **dict.fromkeys(("created_after", "created_before", "active_after", "active_before"), times),
        "metadata": st.lists(
            st.tuples(st.sampled_from(KEYS), st.sampled_from((*TEXTS, *SCALARS))), max_size=2
        ),
        "include_deleted": st.booleans(),
    },
)


def passes(session: Session, *, include_deleted: bool = False, **wanted: Any) -> bool:
    """The filter in plain Python."""
    bounds = {
        "created_after": lambda time: session.created_at > time,
        "created_before": lambda time: session.created_at < time,
        "active_after": lambda time: session.last_activity > time,
        "active_before": lambda time: session.last_activity < time,
        "agent": lambda agent: session.current_agent == agent,
        "is_active": lambda is_active: session.is_active == is_active,
        "metadata": lambda pairs: all(has_member(session, *pair) for pair in pairs),
    }
    if session.deleted_at is not None and not include_deleted:
        return False
    return all(bounds[name](value) for name, value in wanted.items() if value is not None)


def has_member(session: Session, key: str, wanted: Any) -> bool:
    members = msgspec.json.decode(session.encoded_metadata, type=dict[str, msgspec.Raw])
    if key not in members:
        return False
    value, text = session.metadata[key], bytes(members[key]).decode()
    if isinstance(value, str):
        return bool(wanted == value)
    if isinstance(value, (list, dict)):
        return False
    return text == (wanted if isinstance(wanted, str) else msgspec.json.encode(wanted).decode())


async def list_all(store: Store, limit: int, **wanted: Any) -> tuple[list[Session], Any]:
    """All pages of a list, and the number that the first one gives."""
    page = await store.list_sessions(limit=limit, count=True, **wanted)
    found, total = page.sessions, page.total
    while page.next_cursor is not None:
        assert page.sessions, "only the last page may be empty"
        page = await store.list_sessions(limit=limit, cursor=page.next_cursor, **wanted)
        found = found + page.sessions
    return found, total


async def change(store: Store, owner: str, step: tuple[str, int, int, dict[str, Any], str]) -> None:
    kind, number, _, members, agent = step
    name = f"s{number}"
    calls: dict[str, Callable[[], Any]] = {
        "create": lambda: store.create_session(
            name, metadata=members, agent=agent, if_missing=True, owner=owner
        ),
        "patch": lambda: store.update_session(name, metadata=members, owner=owner),
        "switch": lambda: store.switch_agent(name, agent, owner=owner),
        "rest": lambda: store.update_session(name, is_active=number % 2 == 0, owner=owner),
        "delete": lambda: store.delete_session(name, hard=number == 0, owner=owner),
        "restore": lambda: store.restore_session(name, owner=owner),
        "append": lambda: store.append_messages(name, [{"role": "user", "content": "x"}], owner=owner),
    }
    with contextlib.suppress(SessionNotFound):
        await calls[kind]()


owners = (f"owner-{n}" for n in itertools.count(1))


@pytest.mark.slow
@pytest.mark.usefixtures("uncounted")
@given(changes, st.lists(filters, min_size=1, max_size=8), st.integers(1, 4), st.integers(1, 3))
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_a_filtered_list_has_what_a_plain_filter_finds(
    store: Store, clock: Clock, steps: list[Any], wanted: list[dict[str, Any]], limit: int, few: int
) -> None:
    owner = next(owners)
    for step in steps:
        clock.now = START + timedelta(minutes=step[2])
        await change(store, owner, step)
    everything, _ = await list_all(store, 100, owner=owner, include_deleted=True)
    with pytest.MonkeyPatch.context() as patched:
        # Both ways to read a page, and a walk of several spans.
        patched.setattr(session_lists, "FEW", few - 1)
        patched.setattr(session_lists, "MANY", 2 * few if few > 1 else 0)
        patched.setattr(session_lists, "STEPS", few)
        for each in wanted:
            expected = [session for session in everything if passes(session, **each)]
            found, total = await list_all(store, limit, owner=owner, **each)
            assert found == expected
            assert total == len(expected)


async def names(store: Store, **wanted: Any) -> list[str]:
    return [session.session_id for session in (await store.list_sessions(**wanted)).sessions]


async def test_members_beyond_the_first_64_are_not_found(store: Store) -> None:
    await store.create_session("s", metadata={"list": [], **{str(n): n for n in range(70)}})
    assert await names(store, metadata={"63": 63}) == ["s"]
    assert await names(store, metadata={"64": 64}) == []


async def test_a_page_of_a_filtered_list_is_bounded_in_bytes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_lists, "PAGE_BYTES", 2500)
    for number in range(5):
        await store.create_session(f"s{number}", metadata={"k": "v", "large": "x" * 1000})
    for few in (5000, 0):
        monkeypatch.setattr(session_lists, "FEW", few)
        page = await store.list_sessions(metadata={"k": "v"})
        assert len(page.sessions) == 2
        found, total = await list_all(store, 5, metadata={"k": "v"})
        assert len(found) == total == 5


@pytest.mark.parametrize(
    ("wanted", "place"),
    [
        ({"created_after": datetime(2026, 1, 1)}, "created_after"),
        ({"metadata": dict.fromkeys(map(str, range(11)), "v")}, "metadata"),
        ({"metadata": {"k": float("nan")}}, "metadata.k"),
    ],
)
async def test_a_filter_that_there_cannot_be_is_refused(
    store: Store, wanted: dict[str, Any], place: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        await store.list_sessions(**wanted)
    assert refused.value.problems[0].path == place


async def test_another_owner_sees_none_of_it(store: Store) -> None:
    await store.create_session("s", owner="ann", metadata={"k": "v"})
    assert await names(store, owner="bob", metadata={"k": "v"}) == []
    assert await names(store, owner="ann", metadata={"k": "v"}) == ["s"]


# An upgrade: sessions that have no labels yet.


@asynccontextmanager
async def upgraded(url: str, clock: Clock) -> AsyncIterator[Store]:
    """A store on a database whose sessions were stored before there were labels."""
    query(url, "INSERT INTO unlabelled_sessions (session_db_id) SELECT id FROM sessions")
    query(url, "DELETE FROM session_labels")
    async with open_timed(url, clock) as store:
        yield store


async def labelled(store: Store) -> None:
    async with asyncio.timeout(60):
        await store._core.labeller._task


def stored_labels(url: str) -> list[tuple[Any, ...]]:
    return sorted(query(url, "SELECT session_db_id, name, value, owner FROM session_labels"))


async def test_sessions_of_an_earlier_version_are_labelled_in_the_background(
    database_url: str, clock: Clock
) -> None:
    async with open_store(database_url) as store:
        for number in range(250):
            large = {"large": "x" * 100_000} if number % 100 == 0 else {}
            await store.create_session(f"s{number}", metadata={"n": number, **large}, agent=f"a{number % 3}")
        await store.delete_session("s1")
        await store.delete_session("s2", hard=True)
        await store.update_session("s3", is_active=False)
    before = stored_labels(database_url)
    async with upgraded(database_url, clock) as store:
        # Changes meanwhile are not lost.
        await asyncio.gather(
            *(store.update_session(f"s{n}", metadata={"m": n, "n": None}) for n in range(200, 250))
        )
        await labelled(store)
        assert await names(store, metadata={"n": "77"}) == ["s77"]
        assert await names(store, metadata={"m": "201"}) == ["s201"]
        assert await names(store, metadata={"n": "201"}) == []
        assert await names(store, is_active=False, agent="a0") == ["s3"]
    changed = [
        row for row in before if not (row[1] == 'metadata"n"' and row[2] >= "200" and len(row[2]) == 3)
    ]
    after = [row for row in stored_labels(database_url) if row[1] != 'metadata"m"']
    assert after == changed
    assert query(database_url, "SELECT count(*) FROM unlabelled_sessions") == [(0,)]


async def test_a_list_is_not_filtered_until_all_sessions_have_labels(
    database_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store(database_url) as store:
        await store.create_session("s", metadata={"k": "v"})
    monkeypatch.setattr("runtime.store.write.labeller.Labeller._run", lambda self: asyncio.Event().wait())
    async with upgraded(database_url, clock) as store:
        with pytest.raises(DatabaseUnavailable, match="still being indexed"):
            await store.list_sessions(metadata={"k": "v"})
        assert (
            await names(store) == await names(store, active_after=datetime(2020, 1, 1, tzinfo=UTC)) == ["s"]
        )


async def test_the_value_of_a_label_is_bounded(store: Store) -> None:
    assert len(labels.member_value('"' + "é" * 10_000 + '"')) <= labels.MAX_LENGTH
    long = "é" * 10_000
    await store.create_session("s", metadata={"k": long, long: "v"})
    assert await names(store, metadata={"k": long}) == await names(store, metadata={long: "v"}) == ["s"]
    assert await names(store, metadata={"k": long + "x"}) == []
