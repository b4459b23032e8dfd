"""Erases all that an owner has."""

from __future__ import annotations

import argparse
import sys

from runtime.cli.confirm import confirmed
from runtime.config import Settings
from runtime.errors import NotStored, RequestError

HELP = "erase all that an owner has: sessions, messages, keys and tokens"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the owner, and how it is done."""
    whose = parser.add_mutually_exclusive_group(required=True)
    whose.add_argument("--owner", metavar="NAME", help="whose data are erased")
    whose.add_argument(
        "--nobody",
        action="store_true",
        help="erase what belongs to no owner: what was made on an open server, and tokens without --owner",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "--vacuum",
        action="store_true",
        help="rewrite the database's files afterwards, so that no page of them has anything erased; "
        "on Postgres this locks one table after the other",
    )


async def run(options: argparse.Namespace, settings: Settings) -> int:
    """Erase all that an owner has, after a question."""
    from runtime.store.store import open_store

    owner, nobody = options.owner or "", options.nobody
    try:
        # Who does not ask need not wait for the count.
        if not options.yes:
            async with open_store(settings=settings) as store:
                found = await store.erase_owner(owner, nobody=nobody, dry_run=True)
            counts = f"{found.sessions} sessions with {found.messages} messages, and {found.tokens} tokens"
            if not confirmed(f"erase for good {counts}, of {_name(owner)}"):
                return 1
        async with open_store(settings=settings) as store:
            erased = await store.erase_owner(owner, nobody=nobody)
            if options.vacuum:
                await store.vacuum()
    except (RequestError, NotStored) as error:
        print(f"agent-runtime: {error}", file=sys.stderr)
        return 1
    counts = f"{erased.sessions} sessions with {erased.messages} messages, {erased.tokens} tokens"
    print(f"erased {counts}, of {_name(owner)}")
    return 0


def _name(owner: str) -> str:
    return f"owner {owner!r}" if owner else "nobody"
