"""A connection that keeps writing statements back and runs them together."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any


class StagingConnection(sqlite3.Connection):
    """Runs what is staged before it reads or commits, in the same turn of its thread.

    A turn of the thread costs more than most statements do: a lone append takes two instead of five.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._staged: list[Callable[[], object]] = []

    def stage(self, step: Callable[[], object]) -> None:
        """Run this later, after what was staged before. Its error comes up there and then."""
        self._staged.append(step)

    def execute(self, *args: Any) -> sqlite3.Cursor:
        self._run_staged()
        return super().execute(*args)

    def commit(self) -> None:
        self._run_staged()
        super().commit()

    def rollback(self) -> None:
        self._staged = []
        super().rollback()

    def _run_staged(self) -> None:
        # Taken away first: after one that fails the others must not run.
        steps, self._staged = self._staged, []
        for step in steps:
            step()
