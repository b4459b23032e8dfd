"""The command line."""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from runtime import __version__
from runtime.access import token_commands
from runtime.config import Settings
from runtime.db.connect import open_database
from runtime.db.database import Database, MigrateMode
from runtime.errors import DatabaseError, FileDamaged, MigrationError, RequestError, StartupError
from runtime.logs import configure_logging

DESCRIPTION = "Runs LLM agents and keeps their conversations: turns, messages, handovers and approvals."
EPILOG = """\
examples:
  agent-runtime serve
      serve http://127.0.0.1:8001, with the conversations in data/agent_runtime.db
  AGENT_RUNTIME__DB_URL=postgresql://user:password@host/database agent-runtime serve
      the same on Postgres
  AGENT_RUNTIME__DB_URL=sqlite:////var/lib/agents.db agent-runtime check
      look whether a database is sound
  AGENT_RUNTIME__AGENTS_FILE=agents.toml agent-runtime agents
      look whether a file of your own agents is right, and what it makes of them

Settings are environment variables that begin with AGENT_RUNTIME__: DB_URL, HOST, PORT, LLM_URL and more.
runtime/docs/settings.md lists all of them with their defaults. A misspelt one is an error, not ignored.

exit status: 0 done; 1 something was found to be wrong, is still to do, or could not be stored;
2 could not start.
"""
ROWS_SHOWN = 100

Count = Annotated[int, Meta(ge=1)]
Age = Annotated[float, Meta(ge=0, le=1e6)]

Command = Callable[[argparse.Namespace, Settings], Coroutine[Any, Any, int]]


async def serve(_: argparse.Namespace, settings: Settings) -> int:
    """Serve until a signal says to stop. Writes that were lost at the end make the exit status 1."""
    # Here, so that the other commands need not load the server.
    from runtime import app

    configure_logging(settings.log_level, settings.log_format)
    return 1 if await app.serve(settings) else 0


async def migrate(options: argparse.Namespace, settings: Settings) -> int:
    """Apply the migrations, take some back, or say what is pending."""
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


async def cleanup(options: argparse.Namespace, settings: Settings) -> int:
    """Soft-delete idle sessions, erase those deleted long ago."""
    from runtime.store.store import open_store

    async with open_store(settings=settings) as store:
        cleaned = await store.cleanup(
            max_age_hours=options.max_age_hours, hard_delete_after_days=options.hard_delete_after_days
        )
    print(f"soft-deleted {cleaned.soft_deleted} idle sessions, erased {cleaned.hard_deleted} deleted ones")
    return 0


async def stats(_: argparse.Namespace, settings: Settings) -> int:
    """Print how much the database holds."""
    async with _database(settings) as database:
        [counts] = await database.fetch("count_everything")
    for name in COUNTS:
        print(f"{name:18} {counts[name]}")
    return 0


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


async def check(_: argparse.Namespace, settings: Settings) -> int:
    """Look for what is wrong with the database. Prints a line for each finding."""
    try:
        async with _database(settings) as database:
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


@asynccontextmanager
async def _database(
    settings: Settings, *, migrate: MigrateMode = "check", beside_owner: bool = False
) -> AsyncIterator[Database]:
    database = await open_database(settings.db_url, migrate=migrate, beside_owner=beside_owner)
    try:
        yield database
    finally:
        await database.close()


async def agents(_: argparse.Namespace, settings: Settings) -> int:
    """Print the agents, tools, approval policy and limits that are in force, and where they come from."""
    from runtime.agents.configuration import load_registry
    from runtime.agents.describe import describe_registry

    path = settings.agents_file
    registry = load_registry(path)
    print(f"from {path!r}; sections that it leaves out are built in\n" if path else "all built in\n")
    print(describe_registry(registry))
    return 0


async def token(options: argparse.Namespace, settings: Settings) -> int:
    """Make, list or revoke tokens."""
    from runtime.models import utc_now
    from runtime.store.tokens import Tokens

    # Also beside a running server: it looks a token up each time.
    migrate = settings.migrate if options.migrates else "check"
    async with _database(settings, migrate=migrate, beside_owner=True) as database:
        try:
            await options.action(Tokens(database, utc_now), options)
        except RequestError as error:
            print(f"agent-runtime: {error}", file=sys.stderr)
            return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "agent-runtime",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"agent-runtime {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add(commands, serve, "serve HTTP until SIGTERM or Ctrl-C")
    _add_migrate(commands)
    _add_cleanup(commands)
    token_commands.add_to(_add(commands, token, "make, list or revoke the tokens that programs sign in with"))
    _add(commands, stats, "print how many sessions, messages and so on are stored")
    _add(commands, check, "check migrations, the stored data and every session's head")
    _add(commands, agents, "print the agents, tools, approval policy and limits in force")
    return parser


def _add(commands: Any, command: Command, text: str) -> argparse.ArgumentParser:
    name = command.__name__
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=f"This will {text}.")
    parser.set_defaults(command=command)
    return parser


def _add_migrate(commands: Any) -> None:
    parser = _add(commands, migrate, "bring the database's tables up to date")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--plan", action="store_true", help="print the SQL that would run, and run nothing")
    modes.add_argument("--check", action="store_true", help="exit with status 1 when a migration is pending")
    modes.add_argument("--rollback", type=_count, metavar="N", help="take back the last N migrations")


def _add_cleanup(commands: Any) -> None:
    parser = _add(commands, cleanup, "delete sessions that are idle, erase those deleted long ago")
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


def _count(text: str) -> int:
    try:
        return msgspec.convert(text, Count, strict=False)
    except msgspec.ValidationError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more") from None


def _age(text: str) -> float:
    try:
        return msgspec.convert(text, Age, strict=False)
    except msgspec.ValidationError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to a million") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status is returned. See EPILOG."""
    options = _parser().parse_args(arguments)
    command: Command = options.command
    configure_logging("WARNING")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What cannot be shown in the terminal's encoding is escaped.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        settings = Settings.from_environment(os.environ)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            status = runner.run(command(options, settings))
        sys.stdout.flush()
        return status
    except (StartupError, DatabaseError) as error:
        print(f"agent-runtime: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of the output has closed it; the rest would be flushed at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed; None is asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


if __name__ == "__main__":
    sys.exit(main())
