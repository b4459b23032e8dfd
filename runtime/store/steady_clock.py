"""The time of day by which old rows are deleted: a clock that jumps ahead deletes nothing early."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta

# Seconds that a clock must stay ahead after a jump before it is trusted.
HOLD = 3600.0
# A smaller step ahead is no jump but an adjustment of the clock.
TOLERANCE = timedelta(minutes=1)


class SteadyClock:
    """Compares the time of day with a monotonic clock, at its creation and at each `read`.

    A clock that was set back is trusted at once: old rows are only kept for longer.
    """

    def __init__(
        self, clock: Callable[[], datetime], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._since = monotonic()
        # The monotonic time at which the clock was first seen with an offset, and the offset: the time of day
        # at the origin of the monotonic clock. The first is trusted; the others are jumps ahead, each later
        # than the one before, that have not lasted long enough.
        self._shown: deque[tuple[float, datetime]] = deque()
        self.read()

    @property
    def settled(self) -> bool:
        """Whether the clock has been observed for long enough to detect a jump."""
        return self._monotonic() - self._since >= HOLD

    def read(self) -> datetime:
        """The time of day, ignoring a jump ahead within the last hour."""
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
