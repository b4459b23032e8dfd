"""What an import did: counts, what could not arrive as it is, and whether the two databases agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from runtime.store.write.commands import ImportSession
from runtime.transfer.source import Finding

# How many of each kind are named; all are counted.
NAMED = 200

_CHANGES = {
    "texts_escaped": "written out: what JSON or Unicode has no room for",
    "messages_changed": "messages with parts that were written out",
    "metadata_wrapped": "metadata that was no object",
    "times_replaced": "times that could not be read, and were replaced by the nearest that is known",
    "kept": "sessions of the same id that were in the database already, kept as they were",
    "changed_since": "sessions that have changed since they were imported, kept as they are",
}


@dataclass
class Counts:
    """How many there are of each thing; deleted sessions are sessions too."""

    sessions: int = 0
    deleted_sessions: int = 0
    messages: int = 0
    switches: int = 0
    approvals: int = 0

    def add(self, command: ImportSession, messages: int) -> None:
        """Count a session and all that is in it."""
        self.sessions += 1
        self.deleted_sessions += command.deleted_at is not None
        self.messages += messages
        self.switches += len(command.switches)
        self.approvals += len(command.approvals)


@dataclass
class _Kind:
    things: int = 0
    names: list[str] = field(default_factory=list)

    def lines(self, title: str) -> Iterator[str]:
        yield f"  {title}: {self.things}"
        yield from (f"    {name}" for name in self.names)
        if len(self.names) == NAMED:
            yield f"    (the first {NAMED} are named)"


class Report:
    """Gathers what an import finds. Its memory is bounded."""

    def __init__(self, source: str, description: str, target: str) -> None:
        self.source, self.description, self.target = source, description, target
        self.read, self.stored = Counts(), Counts()
        self.created = self.continued = 0
        self.is_compared = False
        self.differing = _Kind()
        self._lost: dict[str, _Kind] = {}
        self._changed: dict[str, _Kind] = {}

    def note(self, finding: Finding) -> None:
        """Take a finding in."""
        kinds = self._lost if finding.is_lost else self._changed
        _name(kinds.setdefault(finding.kind, _Kind()), finding.name, finding.things)

    def note_difference(self, name: str) -> None:
        """Take in that a session is not stored as it is in the source."""
        _name(self.differing, name, 1)

    @property
    def lost(self) -> dict[str, int]:
        """How many things of each kind were not carried over."""
        return {kind: found.things for kind, found in sorted(self._lost.items())}

    @property
    def changed(self) -> dict[str, int]:
        """How many things of each kind are stored in another form, or were kept as they were."""
        return {kind: found.things for kind, found in sorted(self._changed.items())}

    def lines(self) -> Iterator[str]:
        """The report for a person."""
        yield f"source: {self.source}, {self.description}"
        yield f"target: {self.target}"
        yield f"{'':18}{'source':>12}" + (f"{'stored':>12}" if self.is_compared else "")
        for name, count in vars(self.read).items():
            stored = f"{getattr(self.stored, name):>12,}" if self.is_compared else ""
            yield f"{name.replace('_', ' '):18}{count:>12,}{stored}"
        yield from _list("not carried over", self._lost, {})
        yield from _list("not as in the source", self._changed, _CHANGES)
        if self.is_compared:
            yield from self._verdict()

    def _verdict(self) -> Iterator[str]:
        here = self.stored.sessions - self.created - self.continued
        yield f"imported now: {self.created:,}; gone on with: {self.continued:,}; there already: {here:,}"
        if self.differing.things:
            yield from self.differing.lines("sessions that differ from the source")
        else:
            yield "compared: every imported session is as in the source, by its counts and its checksum"


def _name(kind: _Kind, name: str, things: int) -> None:
    kind.things += things
    if len(kind.names) < NAMED:
        kind.names.append(name if things == 1 else f"{name} ({things})")


def _list(title: str, kinds: dict[str, _Kind], titles: dict[str, str]) -> Iterator[str]:
    yield f"{title}:" if kinds else f"{title}: nothing"
    for kind, found in sorted(kinds.items()):
        yield from found.lines(titles.get(kind, kind))
