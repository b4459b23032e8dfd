"""The time of day by which old rows are deleted: one that is ahead for a while deletes nothing early."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta

# How long a clock that jumped ahead has to stay there before it is believed, in seconds.
HOLD = 3600.0
# So far a clock may be ahead without a jump: it is set right by small steps.
TOLERANCE = timedelta(minutes=1)


class SteadyClock:
    """Compares the time of day with one that nobody sets, from when it is made and with each look.

    A clock that went back is believed at once: whatever is old stays for longer.
    """

    def __init__(
        self, clock: Callable[[], datetime], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._since = monotonic()
        # When the clock was first seen at this, and never behind it since: the time of day at which the other
        # clock began. The first is believed; behind it are jumps ahead that have not lasted long enough.
        self._shown: deque[tuple[float, datetime]] = deque()
        self.look()

    @property
    def settled(self) -> bool:
        """Whether the clock has been looked at for long enough to tell a jump from the time."""
        return self._monotonic() - self._since >= HOLD

    def look(self) -> datetime:
        """The time of day; where the clock is ahead of what it showed in the last hour, that, carried on."""
        at, now = self._monotonic(), self._clock()
        passed = timedelta(seconds=at)
        beginning = now - passed
        while self._shown and self._shown[-1][1] - beginning > TOLERANCE:
            self._shown.pop()
        if not self._shown or beginning - self._shown[-1][1] > TOLERANCE:
            self._shown.append((at, beginning))
        while len(self._shown) > 1 and self._shown[1][0] <= at - HOLD:
            self._shown.popleft()
        steady = self._shown[0][1] + passed
        return now if now - steady <= TOLERANCE else steady
