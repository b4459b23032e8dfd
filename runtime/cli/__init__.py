"""The command line, one module a command.

Each module has `HELP`, what the command does; `run`, which does it and returns the exit status; and where it
takes arguments `add_arguments`.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import sys
from collections.abc import Callable, Sequence

from runtime import __version__
from runtime.cli import agents, check, cleanup, erase, export, import_, migrate, serve, stats, token
from runtime.config import Settings
from runtime.errors import DatabaseError, StartupError
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
  AGENT_RUNTIME__DB_URL=sqlite:///data/new.db agent-runtime import data/agent_runtime.db
      take over the conversations of the older service
  agent-runtime export conversations.jsonl.gz
      write all conversations to a file; agent-runtime import reads it back, also into another database
  AGENT_RUNTIME__AGENTS_FILE=agents.toml agent-runtime agents
      look whether a file of your own agents is right, and what it makes of them

Settings are environment variables that begin with AGENT_RUNTIME__: DB_URL, HOST, PORT, LLM_URL and more.
runtime/docs/settings.md lists all of them with their defaults. A misspelt one is an error, not ignored.

exit status: 0 done; 1 something was found to be wrong, is still to do, or could not be stored;
2 could not start.
"""

COMMANDS = (serve, migrate, export, import_, cleanup, erase, token, stats, check, agents)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status is returned. See EPILOG."""
    options = _parser().parse_args(arguments)
    configure_logging("WARNING")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What cannot be shown in the terminal's encoding is escaped.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        settings = Settings.from_environment(os.environ)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            status: int = runner.run(options.run(options, settings))
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "agent-runtime",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"agent-runtime {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in COMMANDS:
        name = module.__name__.rpartition(".")[2].rstrip("_")
        command = commands.add_parser(name, help=module.HELP, description=f"This will {module.HELP}.")
        command.set_defaults(run=module.run)
        if hasattr(module, "add_arguments"):
            module.add_arguments(command)
    return parser


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed; None is asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
