"""The cache: bounded, and never wrong, whatever is read and written at the same time (R1, R2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.store import cache as cache_module
from runtime.store.cache import ENTRY_OVERHEAD, Cache, Entry
from runtime.store.changes import CommittedChange
from runtime.store.records import Head, SessionKey
from tests.support.interleavings import lists_of
from tests.support.memory_tables import Tables
from tests.support.random_values import NOON
from tests.support.simulation import Event, Simulation, draw_event

pytestmark = pytest.mark.usefixtures("uncounted")

# Tails are trimmed to this many messages here, so that it happens.
SHORT_TAIL = 4
EXAMPLES = settings().max_examples


@pytest.fixture(scope="module")
def tables() -> Iterator[Tables]:
    tables = Tables()
    yield tables
    tables.close()


@pytest.mark.slow
@pytest.mark.parametrize("sole_writer", [True, False], ids=["sole writer", "many writers"])
@given(
    events=lists_of(draw_event, min_size=20, max_size=60),
    max_bytes=st.sampled_from((10**6, 10**6, ENTRY_OVERHEAD, 0)),
)
@settings(
    max_examples=5 * EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_r1_a_reader_sees_what_is_stored_whatever_happens_meanwhile(
    tables: Tables, sole_writer: bool, events: list[Event], max_bytes: int
) -> None:
    with pytest.MonkeyPatch.context() as patch, tables.undone():
        patch.setattr(cache_module, "TAIL_LENGTH", SHORT_TAIL)
        simulation = Simulation(tables, sole_writer=sole_writer, max_bytes=max_bytes)
        try:
            for event in events:
                simulation.happen(event)
            simulation.finish()
        finally:
            simulation.close()


def head(key: str, version: int = 1, last_seq: int = 0, message_count: int = 0) -> Head:
    return Head(1, SessionKey("", key), version, last_seq, message_count, 0, NOON, None, 0, 0, 0, 0, None)


def messages(first: int, last: int) -> list[tuple[int, msgspec.Raw]]:
    return [(seq, msgspec.Raw(b"{}")) for seq in range(first, last + 1)]


@given(st.lists(st.tuples(st.sampled_from(("keep", "use")), st.sampled_from("abcdef"))))
def test_r1_the_least_recently_used_goes_first(events: list[tuple[str, str]]) -> None:
    cache = Cache(3 * ENTRY_OVERHEAD)
    kept: list[str] = []
    for event, key in events:
        if event == "keep":
            cache.put_head(head(key), cache.epoch)
        else:
            cache.get(SessionKey("", key))
        if key in kept or event == "keep":
            # What is there already is not kept anew, and so not used either.
            if not (event == "keep" and key in kept):
                kept = [each for each in kept if each != key] + [key]
            kept = kept[-3:]
    assert [key for key in "abcdef" if cache.get(SessionKey("", key)) is not None] == sorted(kept)


def test_r1_an_entry_larger_than_the_cache_is_not_kept() -> None:
    cache = Cache(3 * ENTRY_OVERHEAD)
    cache.put_head(head("large", last_seq=9, message_count=9), cache.epoch)
    cache.put_tail(head("large", last_seq=9, message_count=9), 1, messages(1, 9))
    cache.put_tail(head("large", last_seq=9, message_count=9), 1, [(1, msgspec.Raw(b"x" * 9000))])
    assert cache.size <= cache.max_bytes
    for key in ("large", "a", "b"):
        cache.apply(CommittedChange(SessionKey("", key), head(key), None, [], frozenset({"deleted"}), []))
    assert cache.size == 0


def test_r2_a_head_that_was_read_before_a_commit_is_not_kept() -> None:
    cache = Cache(10**6)
    epoch = cache.epoch
    cache.apply(CommittedChange(SessionKey("", "a"), head("a"), None, [], frozenset({"deleted"}), []))
    cache.put_head(head("a"), epoch)
    assert cache.head(SessionKey("", "a")) is None


@given(st.integers(0, 30), st.integers(0, 12), st.integers(0, 32), st.integers(1, 12))
def test_r1_an_entry_gives_the_page_or_says_that_it_reaches_back_too_far(
    total: int, cached: int, seq: int, limit: int
) -> None:
    start = max(total - cached, 0) + 1
    entry = Entry(head("a", last_seq=total, message_count=total), start)
    entry.extend(messages(start, total))
    after = [each for each in range(1, total + 1) if each > seq]
    before = [each for each in range(1, total + 1) if each < seq]
    check_page(entry.after(seq, limit), after[:limit], len(after) > limit, known=seq + 1 >= start)
    check_page(
        entry.before(seq, limit),
        before[-limit:],
        len(before) > limit,
        known=start == 1 or len([each for each in before if each >= start]) >= limit,
    )


def check_page(found: Any, seqs: list[int], more: bool, *, known: bool) -> None:
    if found is None:
        assert not known
    else:
        assert ([seq for seq, _ in found[0]], found[1]) == (seqs, more)


def test_r2_memory_lets_a_session_go_that_was_seen_further_on() -> None:
    cache = Cache(10**6)
    key, epoch = SessionKey("", "a"), cache.epoch
    cache.put_head(head("a", version=7), epoch)
    cache.note_version(key, 7)
    assert cache.head(key) == head("a", version=7)
    cache.note_version(key, 8)
    assert cache.head(key) is None
    # Nor is a head put back that was read before.
    cache.put_head(head("a", version=7), epoch)
    assert cache.head(key) is None
