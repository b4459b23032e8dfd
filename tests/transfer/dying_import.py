"""`agent-runtime import` that kills itself: `python -m tests.transfer.dying_import N SOURCE`.

It dies in its N-th transaction: before COMMIT where N is even, after it where N is odd. Its loads and its
portions are so small that there are many.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys

from runtime.cli import main
from runtime.db.database import Transaction
from runtime.store.write.plan import Plan
from runtime.store.write.writer import Writer
from runtime.transfer import importer


def die_in_transaction(number: int) -> None:
    numbers, write_rows = itertools.count(1), Writer._write_rows

    async def write_and_die(self: Writer, tx: Transaction, planned: Plan) -> None:
        now = next(numbers)
        # Behind an odd one: the next has written nothing yet.
        if number % 2 == 1 and now == number + 1:
            os.kill(os.getpid(), signal.SIGKILL)
        await write_rows(self, tx, planned)
        if number % 2 == 0 and now == number:
            os.kill(os.getpid(), signal.SIGKILL)

    Writer._write_rows = write_and_die  # type: ignore[method-assign]


if __name__ == "__main__":
    importer.LOAD_COMMANDS, importer.PORTION_MESSAGES = 2, 5
    die_in_transaction(int(sys.argv[1]))
    sys.exit(main(["import", *sys.argv[2:]]))
