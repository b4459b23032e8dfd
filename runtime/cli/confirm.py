"""Asks before something is deleted."""

from __future__ import annotations

import signal
import sys


def confirmed(what: str) -> bool:
    """Whether a person on the terminal agrees to `what`, which begins with a verb.

    Without a terminal nobody does, and one line on stderr names what was not done. No store may be open: this
    waits for a person.
    """
    if not sys.stdin.isatty():
        print(f"agent-runtime: this would {what}; nothing was done, repeat it with --yes", file=sys.stderr)
        return False
    # Ctrl-C ends the question: while the loop does not run, its own handler would only be noted.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        print(f"This will {what}.")
        answer = input("Go on? [y/N] ")
    except EOFError:
        answer = ""
    finally:
        signal.signal(signal.SIGINT, handler)
    if answer.strip().lower() in ("y", "yes"):
        return True
    print("agent-runtime: nothing was done", file=sys.stderr)
    return False
