"""Checks migrations, storage and the heads of sessions."""

from __future__ import annotations

import argparse

from runtime.cli.database import opened
from runtime.config import Settings
from runtime.db.database import Database
from runtime.errors import FileDamaged, MigrationError

HELP = "check migrations, the stored data and every session's head"

ROWS_SHOWN = 100


async def run(_: argparse.Namespace, settings: Settings) -> int:
    """Look for what is wrong with the database. Prints a line for each finding."""
    try:
        async with opened(settings) as database:
            findings = await _find_damage(database)
    except MigrationError as error:
        findings = [f"migrations: {error}"]
    except FileDamaged as error:
        findings = [f"storage: {text}" for text in error.findings]
    for finding in findings:
        print(finding)
    print(
        f"problems found: {len(findings)}" if findings else "migrations, storage and session heads are sound"
    )
    return 1 if findings else 0


async def _find_damage(database: Database) -> list[str]:
    found = await database.fetch("check_storage", ROWS_SHOWN)
    if broken := [f"storage: {row['finding']}" for row in found if row["finding"] != "ok"]:
        return broken
    wrong = await database.fetch("list_wrong_heads", ROWS_SHOWN)
    return [
        f"session {row['session_id']!r} of owner {row['owner']!r}: its head says {row['message_count']}"
        f" messages up to number {row['last_seq']}, stored are {row['messages_found']}"
        f" up to {row['last_seq_found']}"
        for row in wrong
    ]
