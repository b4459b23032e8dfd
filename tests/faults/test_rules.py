"""Each rule of the checker on a journal of a few lines."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from tests.faults.checker import check
from tests.faults.journal import Following, Heard, Journal, Read, Write
from tests.faults.stored import StoredSession

# In a second each: "a" as number 1, then "b" and "c" as 2 and 3, then a handover; a read after that.
ONE = Write("s", ("a",), began=1, ended=2, fate="acknowledged", seqs=(1,), version=2)
TWO = Write("s", ("b", "c"), began=3, ended=4, fate="acknowledged", seqs=(2, 3), version=3)
SWITCH = Write("s", agent="x", began=5, ended=6, fate="acknowledged", version=4, from_agent="orchestrator")
READ = Read("s", 7, 8, version=4, last_seq=3, after=1, end=3, messages=((2, "b"), (3, "c")))
HEAD = Read("s", 7, 8, version=4, last_seq=3, agent="x")
HEARD = (Heard(2.5, 1, "a"), Heard(4.5, 2, "b"), Heard(4.5, 3, "c"))
STORED = StoredSession(4, 3, 3, "x", [(1, "a"), (2, "b"), (3, "c")], [("orchestrator", "x")])
ACCEPTED = Write("s", ("d",), began=5, ended=6, fate="accepted", life="server 1")


def journal_of(
    *entries: Write | Read, heard: tuple[Heard, ...] = HEARD, killed: float | None = None
) -> Journal:
    journal = Journal()
    journal.writes = [entry for entry in entries if isinstance(entry, Write)]
    journal.reads = [entry for entry in entries if isinstance(entry, Read)]
    journal.followings.append(Following("s", heard=list(heard)))
    if killed is not None:
        journal.kills["server 1"] = killed
    return journal


def rules(journal: Journal, stored: StoredSession, **options: Any) -> set[str]:
    return {finding.partition(":")[0] for finding in check(journal, {"s": stored}, **options)}


def changed(**fields: Any) -> StoredSession:
    return replace(STORED, **fields)


def shorter(version: int, *contents: str) -> StoredSession:
    """The session with these messages and no handover."""
    messages = list(enumerate(contents, 1))
    return StoredSession(version, len(messages), len(messages), "orchestrator", messages, [])


def test_nothing_is_found_where_all_is_well() -> None:
    assert not rules(journal_of(ONE, TWO, SWITCH, READ, HEAD), STORED, heard_within=1.0)


@pytest.mark.parametrize(
    ("rule", "stored"),
    [
        ("lost", changed(messages=[(1, "a")], last_seq=1, message_count=1)),
        ("torn", changed(messages=[(1, "a"), (2, "b")], last_seq=2, message_count=2)),
        ("doubled", changed(messages=[(1, "a"), (2, "b"), (3, "c"), (4, "a")])),
        ("doubled", changed(switches=[("orchestrator", "x"), ("x", "x")])),
        ("moved", changed(messages=[(1, "b"), (2, "c"), (3, "a")])),
        ("moved", changed(switches=[("y", "x")])),
        ("unasked", changed(messages=[(1, "a"), (2, "b"), (3, "c"), (4, "z")])),
        ("gap", changed(messages=[(1, "a"), (2, "b"), (4, "c")])),
        ("head", changed(message_count=4)),
        ("head", changed(version=5)),
        ("head", changed(agent="y")),
    ],
)
def test_what_is_stored_wrong(rule: str, stored: StoredSession) -> None:
    assert rule in rules(journal_of(ONE, TWO, SWITCH), stored)


@pytest.mark.parametrize(
    ("rule", "entry"),
    [
        ("stale", replace(READ, version=3)),
        ("stale", replace(HEAD, version=2, last_seq=1)),
        ("false read", replace(READ, messages=((2, "b"),))),
        ("false read", replace(READ, messages=((2, "b"), (3, "z")))),
        ("false read", replace(READ, version=4, last_seq=2, end=2, messages=((2, "b"),))),
        ("false read", replace(HEAD, agent="orchestrator")),
        ("false read", replace(HEAD, began=1.5, ended=3.5, version=2)),
        ("refused", replace(ONE, fate="refused", seqs=(), version=0, ended=2)),
        ("out of order", replace(ONE, began=4.5, ended=4.8)),
        ("stale", replace(ONE, began=8.5, ended=9)),
    ],
)
def test_what_is_answered_wrong(rule: str, entry: Write | Read) -> None:
    first = entry if isinstance(entry, Write) else ONE
    assert rule in rules(journal_of(first, TWO, SWITCH, READ, entry if entry is not first else HEAD), STORED)


@pytest.mark.parametrize(
    "heard",
    [
        HEARD[:2],
        HEARD[1:],
        (HEARD[0], *HEARD),
        (HEARD[0], HEARD[2], HEARD[1]),
        (*HEARD[:2], Heard(4.5, 3, "z")),
    ],
)
def test_what_is_heard_wrong(heard: tuple[Heard, ...]) -> None:
    assert "follower" in rules(journal_of(ONE, TWO, SWITCH, heard=heard), STORED)


def test_what_is_heard_late() -> None:
    late = (*HEARD[:2], Heard(9.0, 3, "c"))
    assert rules(journal_of(ONE, TWO, SWITCH, heard=late), STORED, heard_within=2.0) == {"late"}


def test_a_read_that_goes_back_behind_another_is_stale() -> None:
    early = replace(HEAD, began=2.5, ended=2.6, version=3, last_seq=3, agent="orchestrator")
    later = Read("s", 3, 3.5, version=2, last_seq=1, agent="orchestrator")
    assert rules(journal_of(ONE, TWO, SWITCH, early, later), STORED) == {"stale"}


def test_a_write_whose_fate_is_unknown_may_be_stored_or_not() -> None:
    unknown = Write("s", ("d", "e"), began=1, ended=math.inf)
    assert not rules(journal_of(ONE, TWO, SWITCH, unknown), STORED)
    both = changed(version=5, last_seq=5, message_count=5, messages=[*STORED.messages, (4, "d"), (5, "e")])
    heard = (*HEARD, Heard(5, 4, "d"), Heard(5, 5, "e"))
    assert not rules(journal_of(ONE, TWO, SWITCH, unknown, heard=heard), both)
    half = changed(version=5, last_seq=4, message_count=4, messages=[*STORED.messages, (4, "d")])
    assert "torn" in rules(journal_of(ONE, TWO, SWITCH, unknown, heard=heard[:-1]), half)


@pytest.mark.parametrize(
    ("killed", "window", "found"),
    [(6.5, 1.0, set()), (9.0, 1.0, {"lost"}), (None, 1.0, {"lost"}), (6.5, None, {"lost"})],
)
def test_what_was_accepted_may_be_lost_in_a_window_before_a_kill(
    killed: float | None, window: float | None, found: set[str]
) -> None:
    journal = journal_of(ONE, TWO, ACCEPTED, killed=killed)
    assert rules(journal, shorter(3, "a", "b", "c"), window=window) == found


def test_what_was_accepted_is_lost_from_the_end_only() -> None:
    later = replace(ACCEPTED, contents=("e",), began=6.1, ended=6.2, attempts=1)
    heard = (*HEARD, Heard(7, 4, "e"))
    journal = journal_of(ONE, TWO, ACCEPTED, later, heard=heard, killed=6.5)
    assert rules(journal, shorter(4, "a", "b", "c", "e"), window=1.0) == {"lost"}


def test_what_was_accepted_is_stored_before_it_is_read() -> None:
    read = Read("s", 6.1, 6.2, version=3, last_seq=3, life="server 1")
    journal = journal_of(ONE, TWO, ACCEPTED, read, killed=6.5)
    assert rules(journal, shorter(3, "a", "b", "c"), window=1.0) == {"lost"}
