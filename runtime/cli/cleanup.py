"""Deletes idle sessions, erases those deleted long ago."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from runtime.cli.confirm import confirmed
from runtime.config import Settings

if TYPE_CHECKING:
    from runtime.models import Cleaned

HELP = "delete sessions that are idle, erase those deleted long ago"

Age = Annotated[float, Meta(ge=0, le=1e6)]

HOURS, DAYS = 24.0, 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the two ages, and how to look first."""
    parser.add_argument(
        "--max-age-hours", type=_age, metavar="HOURS", help=f"idle for so long (default: {HOURS:g})"
    )
    parser.add_argument(
        "--hard-delete-after-days",
        type=_age,
        metavar="DAYS",
        help=f"erase what was deleted so long ago (default: {DAYS:g})",
    )
    parser.add_argument("--dry-run", action="store_true", help="count what would go, and change nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask where no age is given")


def _age(text: str) -> float:
    try:
        return msgspec.convert(text, Age, strict=False)
    except msgspec.ValidationError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to a million") from None


async def run(options: argparse.Namespace, settings: Settings) -> int:
    """Soft-delete idle sessions, erase those deleted long ago; where no age is given, ask first."""
    hours, days = options.max_age_hours, options.hard_delete_after_days
    # Who names an age knows what goes.
    asks = hours is None and days is None and not options.yes
    hours, days = HOURS if hours is None else hours, DAYS if days is None else days
    if options.dry_run or asks:
        found = await _clean(settings, hours, days, dry_run=True)
        idle = f"soft-delete {found.soft_deleted} sessions that were idle for {hours:g} hours"
        what = f"{idle}, erase {found.hard_deleted} that were deleted {days:g} days ago"
        if options.dry_run:
            print(f"would {what}")
            return 0
        if not confirmed(what):
            return 1
    cleaned = await _clean(settings, hours, days, dry_run=False)
    print(f"soft-deleted {cleaned.soft_deleted} idle sessions, erased {cleaned.hard_deleted} deleted ones")
    return 0


async def _clean(settings: Settings, hours: float, days: float, *, dry_run: bool) -> Cleaned:
    from runtime.store.store import open_store

    async with open_store(settings=settings) as store:
        return await store.cleanup(max_age_hours=hours, hard_delete_after_days=days, dry_run=dry_run)
