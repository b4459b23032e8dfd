"""A process that opens a database and closes it: `python -m tests.migrations.opening URL [N]`.

With N it kills itself, as a crash would, when yoyo is about to run its N-th statement.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys

from runtime.db.database import open_database


def die_before_statement(number: int) -> None:
    from yoyo.backends.base import DatabaseBackend

    numbers, make_cursor = itertools.count(1), DatabaseBackend.cursor

    def cursor(self: DatabaseBackend) -> object:
        if next(numbers) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return make_cursor(self)

    DatabaseBackend.cursor = cursor


async def main(url: str) -> None:
    database = await open_database(url)
    await database.fetch("list_heads", '[["", "nobody"]]')
    await database.close()


if __name__ == "__main__":
    for number in sys.argv[2:]:
        die_before_statement(int(number))
    asyncio.run(main(sys.argv[1]))
