"""Serves HTTP."""

from __future__ import annotations

import argparse
import logging
import os

from runtime.config import Settings, foreign_variables
from runtime.logs import configure_logging

logger = logging.getLogger("agent_runtime.app")

HELP = "serve HTTP until SIGTERM or Ctrl-C"


async def run(_: argparse.Namespace, settings: Settings) -> int:
    """Serve until a signal says to stop. Writes that were lost at the end make the exit status 1."""
    # Here, so that the other commands need not load the server.
    from runtime import app

    configure_logging(settings.log_level, settings.log_format)
    if foreign := foreign_variables(os.environ):
        logger.warning("settings of the earlier service that have no meaning here: %s", ", ".join(foreign))
    return 1 if await app.serve(settings) else 0
