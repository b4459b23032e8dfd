"""Deletes idle sessions, erases those deleted long ago."""

from __future__ import annotations

import argparse
from typing import Annotated

import msgspec
from msgspec import Meta

from runtime.config import Settings

HELP = "delete sessions that are idle, erase those deleted long ago"

Age = Annotated[float, Meta(ge=0, le=1e6)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the two ages."""
    parser.add_argument(
        "--max-age-hours", type=_age, default=24.0, metavar="HOURS", help="idle for so long (default: 24)"
    )
    parser.add_argument(
        "--hard-delete-after-days",
        type=_age,
        default=30.0,
        metavar="DAYS",
        help="erase what was deleted so long ago (default: 30)",
    )


def _age(text: str) -> float:
    try:
        return msgspec.convert(text, Age, strict=False)
    except msgspec.ValidationError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to a million") from None


async def run(options: argparse.Namespace, settings: Settings) -> int:
    """Soft-delete idle sessions, erase those deleted long ago."""
    from runtime.store.store import open_store

    async with open_store(settings=settings) as store:
        cleaned = await store.cleanup(
            max_age_hours=options.max_age_hours, hard_delete_after_days=options.hard_delete_after_days
        )
    print(f"soft-deleted {cleaned.soft_deleted} idle sessions, erased {cleaned.hard_deleted} deleted ones")
    return 0
