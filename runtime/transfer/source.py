"""What an import asks of a source, whatever it is: the seam between readers and the importer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from runtime.store.messages import NewMessage
from runtime.store.write.commands import ImportSession


@dataclass(frozen=True)
class Finding:
    """Something of a source that cannot arrive as it is: of which kind, which it is, and how many of them.

    With `is_lost` it is not carried over; else it is stored, changed as the kind says.
    """

    kind: str
    name: str
    things: int = 1
    is_lost: bool = True


Note = Callable[[Finding], None]


@dataclass(frozen=True)
class SourceSession:
    """A session of a source: the command that makes it, without its messages, and these, in order.

    The messages are read from the source as they are taken: before the next session is asked for.
    """

    command: ImportSession
    messages: Iterator[NewMessage]


class Source(Protocol):
    """A source, as it stands at one moment. Every method raises SourceUnreadable."""

    name: str
    """Where it is: a URL without a password."""
    description: str
    """What it is, in a few words."""

    def count_sessions(self) -> int:
        """How many sessions it has."""

    def sessions(self, note: Note) -> Iterator[SourceSession]:
        """Its sessions; the same ones in the same order each time. What cannot arrive as it is, is noted."""

    def note_leftovers(self, note: Note) -> None:
        """Note what belongs to no session, or has no place here."""
