"""Messages that memory keeps as they were stored until somebody reads them (R1)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.store import cache as cache_module
from runtime.store.cache import ENTRY_OVERHEAD, TAIL_LENGTH, Cache, Entry, Kept
from runtime.store.changes import CommittedChange
from runtime.store.messages import encode_message
from runtime.store.records import Head, MessageRow, SessionKey
from tests.support.random_values import NOON, POOL

KEY = SessionKey("", "a")
# Tails are trimmed to this many messages here, so that it happens.
SHORT_TAIL = 6


def head(last_seq: int, *, version: int = 1) -> Head:
    return Head(1, KEY, version, last_seq, last_seq, 0, NOON, None, 0, 0, 0, 0, None)


def row(seq: int) -> MessageRow:
    """A message as a batch stores it, of every kind in turn."""
    new = POOL[seq % len(POOL)]
    parts = (new.name, new.tool_call_id, new.tool_calls, new.token_count, new.metadata, new.extra)
    return MessageRow(seq, new.role, new.content, new.timestamp or NOON, *parts)


def encoded(seq: int) -> bytes:
    return encode_message(row(seq))


def as_stored(first: int, last: int) -> list[Kept]:
    return [(seq, row(seq)) for seq in range(first, last + 1)]


def as_read(first: int, last: int) -> list[Kept]:
    return [(seq, msgspec.Raw(encoded(seq))) for seq in range(first, last + 1)]


def check_page(found: tuple[list[Any], bool] | None, seqs: list[int], more: bool) -> None:
    """The page of these messages, each as every reader gets it."""
    assert found is not None
    messages, follow = found
    assert [seq for seq, _ in messages] == seqs
    assert all(isinstance(message, msgspec.Raw) for _, message in messages)
    assert [bytes(message) for _, message in messages] == [encoded(seq) for seq in seqs]
    assert follow is more


def entry_of(last: int) -> Entry:
    entry = Entry(head(last), 1)
    entry.extend(as_stored(1, last))
    return entry


def test_what_was_stored_is_read_as_the_json_that_it_is() -> None:
    entry = entry_of(len(POOL))
    assert [bytes(message) for _, message in entry.after(0, 100)[0]] == [  # type: ignore[index]
        encode_message(row(seq)) for seq in range(1, len(POOL) + 1)
    ]


def test_a_message_is_encoded_once() -> None:
    entry = entry_of(4)
    [(_, first)], _ = entry.after(1, 1) or ([], False)
    [_, (_, again), _], _ = entry.after(0, 3) or ([], False)
    assert again is first


def test_a_page_with_a_limit_beyond_the_end_and_after_an_append() -> None:
    entry = entry_of(3)
    check_page(entry.after(0, 50), [1, 2, 3], False)
    entry.head = head(5)
    entry.extend(as_stored(4, 5))
    check_page(entry.after(0, 50), [1, 2, 3, 4, 5], False)
    check_page(entry.after(3, 50), [4, 5], False)
    check_page(entry.before(100, 2), [4, 5], True)


def test_an_empty_page_at_the_end_and_after_an_append() -> None:
    entry = entry_of(2)
    for seq in (2, 7):
        check_page(entry.after(seq, 50), [], False)
    entry.head = head(4)
    entry.extend(as_stored(3, 4))
    check_page(entry.after(2, 50), [3, 4], False)


def test_the_last_messages_first_and_then_all_of_them() -> None:
    entry = entry_of(9)
    check_page(entry.before(10, 2), [8, 9], True)
    check_page(entry.after(3, 2), [4, 5], True)
    check_page(entry.after(0, 50), list(range(1, 10)), False)


def test_memory_keeps_as_many_as_it_should_when_most_are_unread() -> None:
    last = TAIL_LENGTH * 3 // 2
    entry = entry_of(last)
    check_page(entry.before(last + 1, 1), [last], True)
    entry.extend(as_stored(last + 1, last + 1))
    entry.head = head(last + 1)
    start = last + 2 - TAIL_LENGTH
    assert entry.start == start
    check_page(entry.after(start - 1, 1000), list(range(start, last + 2)), False)


STEPS = st.one_of(
    st.tuples(st.just("store"), st.integers(1, 5), st.just(0)),
    st.tuples(st.just("bring"), st.integers(1, 5), st.just(0)),
    st.tuples(st.just("after"), st.integers(0, 12), st.integers(1, 12)),
    st.tuples(st.just("before"), st.integers(0, 12), st.integers(1, 12)),
)


@given(st.lists(STEPS, max_size=30))
def test_r1_every_page_is_of_json_whatever_was_stored_read_and_trimmed(
    steps: list[tuple[str, int, int]],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_module, "TAIL_LENGTH", SHORT_TAIL)
        entry, last = Entry(head(0), 1), 0
        for what, number, limit in steps:
            if what in ("store", "bring"):
                entry.extend((as_stored if what == "store" else as_read)(last + 1, last + number))
                last += number
                entry.head = head(last)
            else:
                read(entry, last, what, max(last + 3 - number, 0), limit)
            assert entry.size == ENTRY_OVERHEAD + sum(entry.sizes)
            assert len(entry.sizes) == len(entry.messages) <= SHORT_TAIL * 3 // 2


def read(entry: Entry, last: int, what: str, seq: int, limit: int) -> None:
    """A page, if it does not reach back too far."""
    if what == "after":
        wanted = [each for each in range(1, last + 1) if each > seq]
        if (found := entry.after(seq, limit)) is not None:
            check_page(found, wanted[:limit], len(wanted) > limit)
        else:
            assert seq + 1 < entry.start
    elif (found := entry.before(seq, limit)) is not None:
        wanted = [each for each in range(1, last + 1) if each < seq]
        check_page(found, wanted[-limit:], len(wanted) > limit)


def test_r1_what_commits_bring_is_read_as_json_and_counted() -> None:
    cache = Cache(10**7)
    for last in range(0, 3 * TAIL_LENGTH, 3):
        base = head(last, version=last + 1)
        added = [row(seq) for seq in range(last + 1, last + 4)]
        after = head(last + 3, version=last + 4)
        cache.apply(CommittedChange(KEY, base, after, added, frozenset(), []))
        entry = cache.get(KEY)
        assert entry is not None
        if last % 60 == 0:
            check_page(entry.after(last, 1000), [last + 1, last + 2, last + 3], False)
            check_page(entry.before(last + 4, 2), [last + 2, last + 3], True)
        assert cache.size == entry.size
    check_page(entry.after(last + 3 - 100, 1000), list(range(last + 4 - 100, last + 4)), False)
