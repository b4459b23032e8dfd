"""What the store asks of a database: four ways to use it, and nothing about drivers.

Values go in and come out as str, int, float, None and aware UTC datetime; a bool, which SQLite does not
know, comes out of it as 0 or 1. A list goes in as the text of a JSON array.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Dialect = Literal["sqlite", "postgres"]
MigrateMode = Literal["auto", "check"]

# How many snapshots are open at a time. Each is a connection, and keeps the database from cleaning up.
MAX_SNAPSHOTS = 2


class Row(Protocol):
    """A row: values by column name or by position."""

    def __getitem__(self, key: Any, /) -> Any: ...

    def __iter__(self) -> Iterator[Any]: ...


class Transaction(Protocol):
    """The write transaction while it is open."""

    async def fetch(self, statement: str, *parameters: object) -> Sequence[Row]:
        """Run a statement of sql/ by name and return all of its rows."""

    async def execute_many(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        """Run a statement of sql/ by name once for each row of parameters.

        Raises DatabaseConflict if the statement checks every row and a row changes nothing: perhaps only at
        the end of the transaction.
        """


class Snapshot(Protocol):
    """The database as it was at one moment."""

    async def fetch(self, statement: str, *parameters: object) -> Sequence[Row]:
        """Run a reading statement of sql/ by name; return all rows."""


class Database(Protocol):
    """An open database. Every method raises only errors of ours (DatabaseError and below)."""

    dialect: Dialect
    sole_writer: bool
    """True where no other process can write: a head in memory is the truth (R2)."""
    instance: str
    """What this process is known by in the database. On Postgres its connections bear this name, and
    `find_instance` sees at once when they are gone."""

    async def fetch(self, statement: str, *parameters: object) -> Sequence[Row]:
        """Run a reading statement of sql/ by name on a connection of the pool; return all rows."""

    def transaction(self, *, durable: bool = True) -> AbstractAsyncContextManager[Transaction]:
        """The one write transaction (W1); a second one waits until the first has ended.

        Leaving commits; an exception, cancellation too, rolls back and goes on upwards. With
        `durable` false SQLite may lose the transaction in a power cut (W5). Raises CommitUnknown when
        COMMIT was sent and its answer is not known.
        """

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        """Reads that all see the database as it was at the first of them, on a connection of their own.

        A few are open at a time; another one waits for one of them to end. Raises DatabaseUnavailable where
        none ends in time. While it is open SQLite cannot cut its WAL back, nor Postgres its tables: it is not
        to be held while anything but the database is waited for (R5).
        """

    def listen(self, on_payload: Callable[[str], None], on_gap: Callable[[], None]) -> None:
        """Call `on_payload` with each notification, from now on: those of other instances, and our own.

        `on_gap` is called after any time in which notifications may have been missed. Where there is
        no other instance nothing is ever called.
        """

    def was_lost(self, seconds: float) -> bool:
        """Whether the server was away from this process within so many seconds: others may still be on
        their way back to it."""

    def pool_usage(self) -> dict[str, int]:
        """The connections for reading: how many are `idle`, how many `busy`."""

    def wal_bytes(self) -> int:
        """How long the write-ahead log of a SQLite file is; 0 on Postgres, where the server sees to it."""

    async def vacuum(self) -> None:
        """Rewrite the files, so that nothing deleted is left in them. Writes wait meanwhile."""

    def fault(self) -> str:
        """What is wrong with the database though it may answer; empty where nothing is."""

    async def close(self, timeout: float = 5.0) -> None:
        """Close every connection, in about `timeout` seconds. Afterwards each use is DatabaseUnavailable."""


@dataclass(frozen=True)
class PoolLimits:
    """What bounds the use of a database: connections, seconds, and milliseconds for slow statements."""

    pool_min: int
    pool_max: int
    pool_timeout: float
    command_timeout: float
    slow_query_ms: float
