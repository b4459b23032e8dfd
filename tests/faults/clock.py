"""A clock that a test sets, and the server that goes by it: `python -m tests.faults.clock FILE serve`.

The file says `at` and the time at which the clock stands still, or `wrong` and by how many seconds.
"""

from __future__ import annotations

import functools
import os
import sys
from datetime import datetime, timedelta
from pathlib import Path

from runtime import app, cli
from runtime.models import utc_now


class Clock:
    """The clock of a server, kept in a file. It is right at first."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.command = (sys.executable, "-m", "tests.faults.clock", str(file), "serve")
        self.jump(0.0)

    def jump(self, offset: float) -> None:
        """From now on it is wrong by so many seconds."""
        self._set(f"wrong {offset}")

    def stand(self, now: datetime) -> None:
        """From now on it is always this time."""
        self._set(f"at {now.isoformat()}")

    def _set(self, text: str) -> None:
        new = self._file.with_name(f"{self._file.name}.new")
        new.write_text(text)
        # Renamed into place: the server never reads half of it.
        os.replace(new, self._file)


def read_clock(file: Path) -> datetime:
    """The time of day by it."""
    how, _, value = file.read_text().partition(" ")
    return datetime.fromisoformat(value) if how == "at" else utc_now() + timedelta(seconds=float(value))


def main(file: Path, arguments: list[str]) -> int:
    """Serve; the exit status."""
    app.serve = functools.partial(app.serve, clock=functools.partial(read_clock, file))
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
