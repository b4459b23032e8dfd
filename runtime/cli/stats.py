"""Prints how much the database holds."""

from __future__ import annotations

import argparse

from runtime.cli.database import opened
from runtime.config import Settings

HELP = "print how many sessions, messages and so on are stored"

COUNTS = (
    "sessions",
    "deleted_sessions",
    "messages",
    "tokens",
    "agent_switches",
    "turns",
    "pending_approvals",
    "idempotency_keys",
)


async def run(_: argparse.Namespace, settings: Settings) -> int:
    """Print how much the database holds."""
    async with opened(settings) as database:
        [counts] = await database.fetch("count_everything")
    for name in COUNTS:
        print(f"{name:18} {counts[name]}")
    return 0
