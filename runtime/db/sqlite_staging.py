"""A connection that keeps writing statements back, runs them together, and remembers what failed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# After these the log has to be known whole before anything more is confirmed (W14).
IO_ERRORS = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL}
# With these a COMMIT is refused before it writes.
REFUSALS = {sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_INTERRUPT}


class StagingConnection(sqlite3.Connection):
    """Runs what is staged before it reads or commits, in the same turn of its thread.

    A turn of the thread costs more than most statements do: a lone append takes two instead of five.

    What happened to the disk is kept here, since an error does not reach a caller that was cancelled:

    io_error    the first I/O error that the connection met, or one at COMMIT that may have left a
                transaction in the WAL that looks committed; empty where there was none
    committed   whether the last transaction was committed
    torn        whether the last COMMIT failed in the middle
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._staged: list[Callable[[], object]] = []
        self.io_error = ""
        self.committed = self.torn = False

    def stage(self, step: Callable[[], object]) -> None:
        """Run this later, after what was staged before. Its error comes up there and then."""
        self._staged.append(step)

    def execute(self, *args: Any) -> sqlite3.Cursor:
        with self._noting_errors():
            self._run_staged()
            return super().execute(*args)

    def commit(self) -> None:
        self.committed = self.torn = False
        with self._noting_errors():
            self._run_staged()
            try:
                super().commit()
            except sqlite3.Error as error:
                code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
                self.torn = code & 0xFF not in REFUSALS
                if self.torn:
                    self.io_error = self.io_error or str(error)
                raise
        self.committed = True

    def rollback(self) -> None:
        self._staged = []
        while True:
            try:
                with self._noting_errors():
                    return super().rollback()
            except sqlite3.OperationalError as error:
                # It was meant for the statement before.
                if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_INTERRUPT:
                    raise

    def is_usable(self) -> bool:
        """Whether another transaction may be begun here."""
        try:
            return not self.io_error and not self.in_transaction
        except sqlite3.ProgrammingError:
            return False  # It is closed.

    def _run_staged(self) -> None:
        # Taken away first: after one that fails the others must not run.
        steps, self._staged = self._staged, []
        for step in steps:
            step()

    @contextmanager
    def _noting_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
            if not self.io_error and code & 0xFF in IO_ERRORS:
                self.io_error = str(error)
            raise
