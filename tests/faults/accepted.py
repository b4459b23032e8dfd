"""The rules of buffered writes (W5, W6): a killed server loses the newest of a session, and nothing old."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

from tests.faults.evidence import Event, Evidence, contradictions
from tests.faults.journal import Read, Write


def check_accepted(evidence: Evidence, window: float | None) -> Iterator[str]:
    """`window` is how many seconds before its end a killed server may have lost what it accepted."""
    lives: defaultdict[tuple[str, str], Life] = defaultdict(Life)
    for write in evidence.journal.writes:
        lives[write.session, write.life].writes.append(write)
    for read in evidence.journal.reads:
        lives[read.session, read.life].reads.append(read)
    for (_, name), life in lives.items():
        if any(write.fate == "accepted" for write in life.writes):
            killed = evidence.journal.kills.get(name)
            yield from life.check(evidence, None if killed is None or window is None else killed - window)


class Life:
    """What one server did of one session until it ended."""

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.reads: list[Read] = []

    def check(self, evidence: Evidence, safe_until: float | None) -> Iterator[str]:
        """Nothing that was accepted up to `safe_until` may be lost; None: nothing at all."""
        stored = [write for write in self.writes if evidence.is_stored(write)]
        lost = [write for write in self.writes if write.fate == "accepted" and not evidence.is_stored(write)]
        for write in lost:
            if safe_until is None:
                yield f"lost: {write.name}, and nobody killed its server"
            elif write.ended < safe_until:
                yield f"lost: {write.name}, {safe_until - write.ended:.3f} s before the window"
        yield from self._check_newest(stored, lost)
        yield from contradictions(
            [_of_write(evidence, write) for write in stored if write.contents] + [*map(_of_read, self.reads)]
        )

    def _check_newest(self, stored: list[Write], lost: list[Write]) -> Iterator[str]:
        """A write that began later and is stored, or a read, saw to it that the earlier ones are."""
        # One that was repeated may have begun in another life.
        begun = [write.began for write in stored if write.attempts == 1] + [read.began for read in self.reads]
        last = max(begun, default=-math.inf)
        for write in lost:
            if write.ended < last:
                yield f"lost: {write.name} was not among the newest: {last - write.ended:.3f} s later"


def _of_write(evidence: Evidence, write: Write) -> Event:
    place = max(found[0] for found in evidence.places(write) if found)
    return Event(2 * place, write.began, write.ended, "out of order", write.name)


def _of_read(read: Read) -> Event:
    return Event(
        2 * read.last_seq + 1,
        read.began,
        read.ended,
        "stale",
        f"a read of {read.session} up to {read.last_seq}",
    )
