"""`python -m tests.clocked_server FILE`: `agent-runtime serve`, at the time of day that stands in a file."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import datetime
from pathlib import Path

from runtime import app
from runtime.config import Settings
from runtime.logs import configure_logging


def main() -> int:
    file = Path(sys.argv[1])
    settings = Settings.from_environment(os.environ)
    configure_logging(settings.log_level, settings.log_format)
    return asyncio.run(app.serve(settings, lambda: datetime.fromisoformat(file.read_text())))


if __name__ == "__main__":
    sys.exit(main())
