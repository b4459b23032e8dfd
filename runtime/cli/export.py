"""Exports conversations as JSON Lines."""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import aclosing
from pathlib import Path

from runtime.cli.database import opened
from runtime.cli.import_ import parse_key
from runtime.config import Settings
from runtime.errors import ExportUnwritable, SessionNotFound
from runtime.models import utc_now

HELP = "write conversations as JSON Lines: all of them, those of an owner, or one"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to export, and where to."""
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        metavar="FILE",
        help="a new file, compressed if its name ends in .gz or .zst (default: standard output)",
    )
    parser.add_argument("--owner", type=parse_key, metavar="OWNER", help="only the sessions of this owner")
    parser.add_argument(
        "--session",
        type=parse_key,
        metavar="ID",
        help="only this session, of the owner; without --owner one of those that have none",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")


async def run(options: argparse.Namespace, settings: Settings) -> int:
    """Export. A SQLite file may be in use: what its owner has buffered is not in the export."""
    from runtime.store.exports import SNAPSHOT_SECONDS
    from runtime.store.read.export_reader import ExportScope, read_export
    from runtime.store.spool import spooled
    from runtime.transfer.export_output import write_file

    scope = ExportScope(options.owner, options.session)
    async with opened(settings, beside_owner=True) as database:
        pieces = read_export(database, scope, utc_now())
        try:
            if options.file is not None:
                async with aclosing(pieces):
                    await write_file(pieces, options.file, overwrite=options.overwrite)
            else:
                # A reader that waits must not keep the database from cleaning up.
                async with aclosing(spooled(pieces, SNAPSHOT_SECONDS)) as kept:
                    async for piece in kept:
                        await asyncio.to_thread(sys.stdout.buffer.write, piece)
                    sys.stdout.buffer.flush()
        except (SessionNotFound, ExportUnwritable) as error:
            print(f"agent-runtime: {error}", file=sys.stderr)
            return 1
    return 0
