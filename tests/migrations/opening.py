"""A process that opens a database and closes it: `python -m tests.migrations.opening URL [N]`.

With N it kills itself, as a crash would, when yoyo is about to run its N-th statement; with `portions N` when
SQLite has taken N times STEPS instructions to copy rows.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import signal
import sqlite3
import sys
from typing import Any

from runtime.db import migrate
from runtime.db.connect import open_database

STEPS = 1000


def die_before_statement(number: int) -> None:
    from yoyo.backends.base import DatabaseBackend

    numbers, make_cursor = itertools.count(1), DatabaseBackend.cursor

    def cursor(self: DatabaseBackend) -> object:
        if next(numbers) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return make_cursor(self)

    DatabaseBackend.cursor = cursor


def die_in_portions(number: int) -> None:
    steps = itertools.count(1)

    def step() -> int:
        if next(steps) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    class Mortal(sqlite3.Connection):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.set_progress_handler(step, STEPS)

    migrate.sqlite3.connect = functools.partial(sqlite3.connect, factory=Mortal)  # type: ignore[attr-defined]


async def main(url: str) -> None:
    database = await open_database(url)
    await database.fetch("list_heads", '[["", "nobody"]]')
    await database.close()


if __name__ == "__main__":
    match sys.argv[2:]:
        case ["portions", number]:
            die_in_portions(int(number))
        case [number]:
            die_before_statement(int(number))
    asyncio.run(main(sys.argv[1]))
