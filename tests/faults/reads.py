"""The rules of reads: each shows what stood there at one moment while it went on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from operator import attrgetter

from tests.faults.evidence import Event, Evidence, contradictions
from tests.faults.journal import Read, Write
from tests.faults.stored import StoredSession


def check_reads(evidence: Evidence) -> Iterator[str]:
    writes = evidence.writes_by_session()
    for name, reads in evidence.reads_by_session().items():
        session = evidence.session(name)
        versions = Versions(evidence, [write for write in writes.get(name, ()) if write.version])
        for read in reads:
            yield from _check_page(read, session)
            yield from versions.check(read)
        yield from contradictions([*map(_of_read, reads), *map(_of_write, versions.writes)])


def _of_read(read: Read) -> Event:
    # A read stands behind the write that made its version.
    place = 2 * read.version + 1
    return Event(place, read.began, read.ended, "stale", _name(read))


def _of_write(write: Write) -> Event:
    return Event(2 * write.version, write.began, write.ended, "stale", write.name)


def _name(read: Read) -> str:
    return f"a read of {read.session} at version {read.version}, number {read.last_seq}"


def _check_page(read: Read, session: StoredSession) -> Iterator[str]:
    """Messages are never taken away: what a page shows stands there for ever."""
    stands = tuple(session.messages[read.after : max(read.end, read.after)])
    if read.messages != stands:
        yield f"false read: {_name(read)} shows {_seqs(read.messages)}; there stand {_seqs(stands)}"
    if read.end > max(read.last_seq, read.after):
        yield f"false read: {_name(read)} shows more than that"


def _seqs(messages: tuple[tuple[int, str], ...]) -> list[tuple[int, str]]:
    return [(seq, content[:12]) for seq, content in messages]


class Versions:
    """The acknowledged writes of a session by the versions that they made."""

    def __init__(self, evidence: Evidence, writes: list[Write]) -> None:
        self.writes = sorted(writes, key=attrgetter("version"))
        self._versions = [write.version for write in self.writes]
        self._switches = [write for write in self.writes if write.agent and evidence.is_stored(write)]
        self._agents = [agent for _, agent in evidence.session(writes[0].session).switches] if writes else []

    def check(self, read: Read) -> Iterator[str]:
        """Whether a read shows everything up to its version, and nothing beyond."""
        place = bisect_right(self._versions, read.version)
        before = (
            next((write.seqs[-1] for write in self.writes[place - 1 :: -1] if write.seqs), 0) if place else 0
        )
        behind = next((write.seqs[0] for write in self.writes[place:] if write.seqs), read.last_seq + 1)
        if not before <= read.last_seq < behind:
            yield f"false read: {_name(read)}, where that version ends between {before} and {behind}"
        if read.agent and self._agents and not self._may_hold(read):
            yield f"false read: {_name(read)} is held by {read.agent!r}"

    def _may_hold(self, read: Read) -> bool:
        """Whether the agent is not older than the last known handover, nor newer than the version."""
        place = self._agents.index(read.agent) if read.agent in self._agents else -1
        known = bisect_right(self._switches, read.version, key=attrgetter("version"))
        last = self._agents.index(self._switches[known - 1].agent) if known else -1
        if known == len(self._switches):
            return place >= last
        return last <= place < self._agents.index(self._switches[known].agent)
