"""What a load asked of a server, when, and what it was answered. Nothing here is ever taken back.

Times are seconds of `time.monotonic()`.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

# What the last answer to a write says of it.
#   acknowledged  it is stored, and where
#   accepted      it will be stored soon (202)
#   refused       it is not stored
#   unknown       nothing is known: no answer came, or one that says so
Fate = Literal["acknowledged", "accepted", "refused", "unknown"]


@dataclass(slots=True)
class Write:
    """Messages that were to be appended together, or one handover to an agent of its own name.

    From the first attempt to the last answer; `ended` is infinite until one came that says something.
    `life` is that of the server that was asked last: a name that no server bears again once it is killed.
    """

    session: str
    contents: tuple[str, ...] = ()
    agent: str = ""
    key: str = ""
    began: float = field(default_factory=time.monotonic)
    ended: float = math.inf
    fate: Fate = "unknown"
    seqs: tuple[int, ...] = ()
    version: int = 0
    from_agent: str = ""
    attempts: int = 0
    life: str = ""

    @property
    def name(self) -> str:
        """For findings."""
        return f"{self.fate} {self.agent or self.contents[0][:24]!r} of {self.session}"


@dataclass(frozen=True, slots=True)
class Read:
    """A reply that shows a session: its head, and every message behind `after` up to `end`.

    `agent` is who holds the session where the reply says so, else empty.
    """

    session: str
    began: float
    ended: float
    version: int
    last_seq: int
    after: int = 0
    end: int = 0
    messages: tuple[tuple[int, str], ...] = ()
    agent: str = ""
    life: str = ""


@dataclass(frozen=True, slots=True)
class Heard:
    """A message that a follower heard."""

    at: float
    seq: int
    content: str


@dataclass(slots=True)
class Following:
    """A session followed from behind message `after`, over as many streams as it took."""

    session: str
    after: int = 0
    heard: list[Heard] = field(default_factory=list)
    streams: int = 0

    @property
    def last_seq(self) -> int:
        """The number to resume from."""
        return self.heard[-1].seq if self.heard else self.after


class Journal:
    """Append only. `oddities` are replies that no server may give, each as a finding of its own."""

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.reads: list[Read] = []
        self.followings: list[Following] = []
        self.kills: dict[str, float] = {}
        self.oddities: list[str] = []
        # How many writes were acknowledged or accepted so far.
        self.stored = 0
        # Replies that refuse or fail, by status and code: for reports.
        self.refusals: Counter[str] = Counter()

    def begin(self, write: Write) -> Write:
        """Note a write before it is sent."""
        self.writes.append(write)
        return write

    def note_kill(self, life: str) -> None:
        """A server is dead, as of now. What it had only accepted may be lost (W5)."""
        self.kills[life] = time.monotonic()

    def count(self, fate: Fate) -> int:
        """How many writes came to this."""
        return sum(write.fate == fate for write in self.writes)
