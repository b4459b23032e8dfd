"""Imports the conversations of an export, or of the older service."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from runtime.config import Settings
from runtime.errors import NotStored
from runtime.store.validation import is_key

HELP = "import an export, or the conversations of the older service, into the database of DB_URL"

# How often the progress is drawn, in seconds.
DRAWN = 0.2
WIDTH = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the source and how to read it."""
    parser.add_argument(
        "source", metavar="SOURCE", help="an export, a SQLite file or the URL of a database; only read"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="count what there is, list what has no place, store nothing"
    )
    parser.add_argument(
        "--merge",
        action="store_true",
        help="add to a database that holds sessions; those of the same id are kept as they are",
    )
    parser.add_argument(
        "--timezone",
        type=_zone,
        metavar="NAME",
        help="where the oldest versions ran, which wrote local times, such as Europe/Berlin (default: UTC)",
    )
    parser.add_argument(
        "--owner",
        type=parse_key,
        default="",
        help="whose the sessions become (default: as in an export; else everybody's without a token)",
    )


def _zone(text: str) -> ZoneInfo:
    try:
        return ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise argparse.ArgumentTypeError(f"{text!r} is no time zone that is known here") from None


def parse_key(text: str) -> str:
    """An owner or the id of a session; empty for none. Raises ArgumentTypeError."""
    if text and not is_key(text):
        raise argparse.ArgumentTypeError("expected 1 to 255 characters, none of them a control character")
    return text


async def run(options: argparse.Namespace, settings: Settings) -> int:
    """Import, or with --dry-run only look. Prints a report; a session that differs makes the status 1."""
    from runtime.db.url import DatabaseUrl
    from runtime.store.store import open_store
    from runtime.transfer.importer import Importer, count_only
    from runtime.transfer.report import Report
    from runtime.transfer.sources import open_source

    progress = Progress()
    opening = open_source(options.source, options.owner, options.timezone, allow_cut=options.merge)
    with opening as source:
        target = "nothing is stored" if options.dry_run else str(DatabaseUrl.parse(settings.db_url))
        report = Report(source.name, source.description, target)
        try:
            if options.dry_run:
                await asyncio.to_thread(count_only, source, report, progress)
            else:
                async with open_store(settings=settings) as store:
                    await Importer(source, store, report, progress).run(merge=options.merge)
        except NotStored as error:
            progress.clear()
            print(f"agent-runtime: {error}; repeat the command to go on", file=sys.stderr)
            return 1
    progress.clear()
    print(*report.lines(), sep="\n")
    return 1 if report.differing.things else 0


class Progress:
    """Draws a bar on standard error, if that is a terminal."""

    def __init__(self) -> None:
        self._is_shown = sys.stderr.isatty()
        self._drawn = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        """Draw how much of `total` is done, a few times a second."""
        now = time.monotonic()
        if not self._is_shown or now - self._drawn < DRAWN:
            return
        self._drawn = now
        bar = "#" * (WIDTH * min(done, total) // max(total, 1))
        sys.stderr.write(f"\r\x1b[K{what} [{bar:{WIDTH}}] {done:,} of {total:,} sessions")
        sys.stderr.flush()

    def clear(self) -> None:
        """Take the bar away."""
        if self._is_shown:
            sys.stderr.write("\r\x1b[K")
