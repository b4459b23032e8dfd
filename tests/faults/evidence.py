"""A journal beside what is stored: where each write is found, and which findings follow from an order."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from tests.faults.journal import Journal, Read, Write
from tests.faults.stored import Stored, StoredSession

NOTHING = StoredSession()


class Evidence:
    """What the rules look at."""

    def __init__(self, journal: Journal, stored: Stored) -> None:
        self.journal, self.stored = journal, stored
        self._places: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for name, session in stored.items():
            for seq, content in session.messages:
                self._places[name, content].append(seq)
            for n, (_, agent) in enumerate(session.switches, 1):
                self._places[name, agent].append(n)

    def places(self, write: Write) -> list[list[int]]:
        """Where each part of a write is found: the numbers of messages, or of handovers."""
        return [self._places.get((write.session, part), []) for part in write.contents or (write.agent,)]

    def is_stored(self, write: Write) -> bool:
        return any(self.places(write))

    def session(self, name: str) -> StoredSession:
        return self.stored.get(name, NOTHING)

    def writes_by_session(self) -> dict[str, list[Write]]:
        return by_session(self.journal.writes)

    def reads_by_session(self) -> dict[str, list[Read]]:
        found: defaultdict[str, list[Read]] = defaultdict(list)
        for read in self.journal.reads:
            found[read.session].append(read)
        return found


def by_session(writes: Iterable[Write]) -> dict[str, list[Write]]:
    found: defaultdict[str, list[Write]] = defaultdict(list)
    for write in writes:
        found[write.session].append(write)
    return found


class Event(NamedTuple):
    """Something that took effect at a place in an order, at some moment between two times."""

    place: int
    began: float
    ended: float
    rule: str
    name: str


def contradictions(events: Iterable[Event]) -> Iterator[str]:
    """What began after something of a later place had ended: then the order is not that of time."""
    earliest = Event(0, 0, math.inf, "", "")
    ordered = sorted(events, key=attrgetter("place"), reverse=True)
    for _, group in groupby(ordered, key=attrgetter("place")):
        same = list(group)
        for event in same:
            if earliest.ended < event.began:
                late = event.began - earliest.ended
                yield f"{event.rule}: {event.name} began {late:.3f} s after the end of {earliest.name}"
        earliest = min(earliest, *same, key=attrgetter("ended"))
