"""Makes, lists and revokes tokens."""

from __future__ import annotations

import argparse
import re
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, get_args

from runtime.cli.database import opened
from runtime.config import Settings
from runtime.errors import RequestError, TokenNotShown
from runtime.models import Scope, utc_now

if TYPE_CHECKING:
    from runtime.store.tokens import Tokens

HELP = "make, list or revoke the tokens that programs sign in with"

LIFETIME = re.compile(r"([1-9][0-9]{0,8})([smhdw])")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
COLUMNS = ("id", "name", "owner", "scope", "created", "expires", "state")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the three actions."""
    parser.set_defaults(migrates=False)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_create(actions.add_parser("create", help="make a token and print it, once, on the last line"))
    listing = actions.add_parser("list", help="print every token but for what proves it")
    listing.set_defaults(action=list_tokens)
    revoke = actions.add_parser("revoke", help="invalidate a token, at once and on every server")
    which = revoke.add_mutually_exclusive_group(required=True)
    # Suppressed: the default of a missing argument would replace the value of --name.
    which.add_argument(
        "token",
        nargs="?",
        default=argparse.SUPPRESS,
        metavar="TOKEN",
        help="its id, its name, or the token itself",
    )
    which.add_argument("--name", dest="token", help="its name")
    revoke.set_defaults(action=revoke_token)


def _add_create(create: argparse.ArgumentParser) -> None:
    create.add_argument("--name", required=True, help="what people know it by")
    create.add_argument(
        "--owner", default="", help="whose sessions it sees (default: those of nobody in particular)"
    )
    create.add_argument(
        "--scope",
        choices=get_args(Scope),
        default="write",
        help="read: look only; write: change as well (default); admin: act for every owner as well",
    )
    create.add_argument(
        "--expires", type=_lifetime, metavar="90d", help="after so many s, m, h, d or w (default: never)"
    )
    create.set_defaults(action=create_token, migrates=True)


def _lifetime(text: str) -> timedelta:
    match = LIFETIME.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number and a unit, such as 90d, 12h, 30m or 45s")
    try:
        return timedelta(**{UNITS[match[2]]: int(match[1])})
    except OverflowError:
        raise argparse.ArgumentTypeError(f"{text!r} is longer than any time can be") from None


async def run(options: argparse.Namespace, settings: Settings) -> int:
    """Make, list or revoke tokens."""
    from runtime.store.tokens import Tokens

    # Also beside a running server: it looks a token up each time.
    migrate = settings.migrate if options.migrates else "check"
    async with opened(settings, migrate=migrate, beside_owner=True) as database:
        try:
            await options.action(Tokens(database, utc_now), options)
        except RequestError as error:
            print(f"agent-runtime: {error}", file=sys.stderr)
            return 1
    return 0


async def create_token(tokens: Tokens, options: argparse.Namespace) -> None:
    """Make a token. The last line of the output is the secret text, alone."""
    token, text = await tokens.create(
        options.name, owner=options.owner, scope=options.scope, lifetime=options.expires
    )
    until = f"until {_time(token.expires_at)}" if token.expires_at else "until it is revoked"
    try:
        print(
            f"token {token.id} of owner {token.owner!r}, scope {token.scope}, valid {until}; shown only now:"
        )
        print(text, flush=True)
    except OSError as error:
        await tokens.revoke(token.id)
        raise TokenNotShown(f"the token could not be shown, and is revoked: {error}") from None


async def list_tokens(tokens: Tokens, _: argparse.Namespace) -> None:
    """Print every token, the oldest first."""
    now, rows = utc_now(), [COLUMNS]
    for token in await tokens.list_all():
        state = "revoked" if token.revoked_at else "valid" if token.is_valid(now) else "expired"
        expires = _time(token.expires_at) if token.expires_at else "never"
        created = _time(token.created_at)
        rows.append((token.id, token.name, token.owner, token.scope, created, expires, state))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


async def revoke_token(tokens: Tokens, options: argparse.Namespace) -> None:
    """Invalidate a token."""
    token = await tokens.revoke(options.token)
    before = f" already, at {_time(token.revoked_at)}" if token.revoked_at else ""
    print(f"revoked{before}: token {token.id}, {token.name!r}")


def _time(at: datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m-%dT%H:%M:%SZ}"
