"""The server, by a clock that is wrong by as many seconds as a file says when it is looked at.

python -m tests.faults.jumping_clock FILE serve
"""

from __future__ import annotations

import functools
import sys
from datetime import datetime, timedelta
from pathlib import Path

from runtime import __main__, app
from runtime.models import utc_now


def main(file: Path, arguments: list[str]) -> int:
    """Serve; the exit status."""

    def clock() -> datetime:
        return utc_now() + timedelta(seconds=float(file.read_text()))

    app.serve = functools.partial(app.serve, clock=clock)
    return __main__.main(arguments)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
