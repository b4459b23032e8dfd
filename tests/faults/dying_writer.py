"""A program that is killed while it writes to a SQLite file: `python -m tests.faults.dying_writer FILE`.

For each line of its input it forks a process that opens the file and writes, checkpoints, and closes it
again and again, faster than a server does. That one's id is the first line of the answer; then each number
that is committed; `dead` when it is.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from runtime.db import sqlite, sqlite_wal
from runtime.db.connect import open_database
from runtime.db.database import Database
from tests.support.database_rows import insert_session, message_row
from tests.support.server_process import SOURCES

# So small that every few transactions restart the WAL, by each way that there is.
WAL_LIMIT, AUTOCHECKPOINT = 100_000, 20


async def write(path: str) -> None:
    chance, number = Random(os.getpid()), 0
    while True:
        database = await open_database(f"sqlite:///{path}", slow_query_ms=1e9)
        if not number:
            number = await _begin(database)
        for _ in range(chance.randint(1, 150)):
            number += 1
            body = f'"{"x" * chance.randint(1, 9000)}"'
            async with database.transaction(durable=chance.random() < 0.5) as transaction:
                await transaction.execute_many("insert_message", [message_row(1, number, body)])
            os.write(1, b"%d\n" % number)
            if chance.random() < 0.1 and isinstance(database, sqlite.SqliteDatabase):
                await database.truncate_wal()
            if number % 50 == 0:
                async with database.transaction() as transaction:
                    await transaction.execute_many("erase_messages", [(1, 0, number)])
        await database.close()


async def _begin(database: Database) -> int:
    if not await database.fetch("list_heads", '[["", "s1"]]'):
        async with database.transaction() as transaction:
            await insert_session(transaction, 1)
    last = await database.fetch("list_page_before", 1, 0, 2**62, None, 1, 2**62)
    return last[0]["seq"] if last else 0


def main(path: str) -> None:
    sqlite_wal.WAL_LIMIT = WAL_LIMIT
    checkpoints = f"PRAGMA wal_autocheckpoint = {AUTOCHECKPOINT}"
    limit = f"PRAGMA journal_size_limit = {WAL_LIMIT}"
    sqlite.WRITER_PRAGMAS = (*sqlite.WRITER_PRAGMAS, checkpoints, limit)  # type: ignore[assignment]
    for _ in sys.stdin:
        child = os.fork()
        if not child:
            os.write(1, b"%d\n" % os.getpid())
            asyncio.run(write(path))
        os.waitpid(child, 0)
        os.write(1, b"dead\n")


class DyingWriter:
    """The program as a test has it."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-m", "tests.faults.dying_writer", str(path)]
        self.process = subprocess.Popen(
            command, cwd=SOURCES, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def write_and_die(self, seconds: float) -> int:
        """How many transactions it said were committed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print("go", file=self.process.stdin)
        pid = self.process.stdout.readline().strip()
        subprocess.run(["sh", "-c", 'sleep "$0"; kill -9 "$1"', str(seconds), pid], check=True)
        commits = 0
        while (line := self.process.stdout.readline().strip()) != "dead":
            assert line, "it failed by itself"
            commits += 1
        return commits


@contextmanager
def dying_writer(path: Path) -> Iterator[DyingWriter]:
    writer = DyingWriter(path)
    with writer.process:
        yield writer


if __name__ == "__main__":
    main(sys.argv[1])
