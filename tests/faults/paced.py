"""The server, with all its heartbeats as much quicker as its first argument says: a scale, such as 0.1.

python -m tests.faults.paced 0.1 serve
"""

from __future__ import annotations

import sys

from msgspec.structs import force_setattr

from runtime import __main__
from runtime.api.routes import USUAL_PACE
from runtime.db import listener


def main(scale: float) -> int:
    """Serve; the exit status."""
    force_setattr(USUAL_PACE, "heartbeat", USUAL_PACE.heartbeat * scale)
    listener.HEARTBEAT_SECONDS *= scale
    listener.HEARTBEAT_TIMEOUT *= scale
    return __main__.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
