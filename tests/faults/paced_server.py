"""The server at another pace: `python -m tests.faults.paced_server HEARTBEAT PATIENCE SCALE serve`.

Streams are quiet for HEARTBEAT seconds at most, readers that take nothing are cut off after PATIENCE seconds,
and the heartbeats of the line that listens are as much quicker as SCALE says, such as 0.1.
"""

from __future__ import annotations

import sys

from msgspec.structs import force_setattr

from runtime import cli
from runtime.api.routes import DEFAULT_STREAM_TIMEOUTS
from runtime.db import listener


def paced(
    *,
    heartbeat: float = DEFAULT_STREAM_TIMEOUTS.heartbeat,
    patience: float = DEFAULT_STREAM_TIMEOUTS.patience,
    listening: float = 1.0,
) -> tuple[str, ...]:
    """The command that starts it: seconds of streams, and the scale of those of the listener."""
    pace = (str(heartbeat), str(patience), str(listening))
    return (sys.executable, "-m", "tests.faults.paced_server", *pace, "serve")


def main(heartbeat: float, patience: float, scale: float) -> int:
    """Serve; the exit status."""
    force_setattr(DEFAULT_STREAM_TIMEOUTS, "heartbeat", heartbeat)
    force_setattr(DEFAULT_STREAM_TIMEOUTS, "patience", patience)
    listener.HEARTBEAT_SECONDS *= scale
    listener.HEARTBEAT_TIMEOUT *= scale
    return cli.main(sys.argv[4:])


if __name__ == "__main__":
    sys.exit(main(*map(float, sys.argv[1:4])))
