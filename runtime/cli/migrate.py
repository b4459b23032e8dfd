"""Applies migrations, takes some back, or prints what is pending."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from runtime.config import Settings

HELP = "bring the database's tables up to date"

Count = Annotated[int, Meta(ge=1)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the three other modes."""
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--plan", action="store_true", help="print the SQL that would run, and run nothing")
    modes.add_argument("--check", action="store_true", help="exit with status 1 when a migration is pending")
    modes.add_argument("--rollback", type=_count, metavar="N", help="take back the last N migrations")


def _count(text: str) -> int:
    try:
        return msgspec.convert(text, Count, strict=False)
    except msgspec.ValidationError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more") from None


async def run(options: argparse.Namespace, settings: Settings) -> int:
    """Apply the migrations, take some back, or print what is pending."""
    from runtime.db import migrate as migrations

    url = settings.db_url
    if options.plan or options.check:
        pending = await migrations.pending_migrations(url)
        if options.plan:
            _print_each("-- {0.id}\n{0.sql}", pending, otherwise="-- nothing is pending")
            return 0
        _print_each("pending: {0.id}", pending, otherwise="nothing is pending")
        return 1 if pending else 0
    if options.rollback:
        gone = await migrations.rollback_migrations(url, options.rollback)
        _print_each("rolled back: {}", gone, otherwise="there was nothing to roll back")
    else:
        _print_each("applied: {}", await migrations.apply_migrations(url), otherwise="nothing was pending")
    return 0


def _print_each(line: str, things: Sequence[object], *, otherwise: str) -> None:
    print("\n".join(line.format(thing) for thing in things) or otherwise)
