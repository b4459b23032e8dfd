"""The server, whose readers are cut off, and looked for, after as many seconds as its first argument says:

python -m tests.faults.impatient 1 serve
"""

from __future__ import annotations

import sys

from msgspec.structs import force_setattr

from runtime import __main__ as program
from runtime.api.routes import USUAL_PACE


def command(patience: float) -> list[str]:
    """How to start it."""
    return [sys.executable, "-m", "tests.faults.impatient", str(patience), "serve"]


if __name__ == "__main__":
    for name in ("patience", "heartbeat"):
        force_setattr(USUAL_PACE, name, float(sys.argv[1]))
    sys.exit(program.main(sys.argv[2:]))
