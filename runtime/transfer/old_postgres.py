"""A Postgres database of the older service, read in one transaction, as it was when that began."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count

import psycopg
from psycopg.rows import dict_row

from runtime.db.queries import find_folder, load_queries
from runtime.errors import SourceUnreadable
from runtime.transfer.old_rows import Fields
from runtime.transfer.schema import TABLES, Columns, columns_from

# How many rows are fetched at a time where there may be many.
FETCHED = 1000


class OldPostgres:
    """A database as it was when it was opened."""

    has_all_naive_times_local = True

    def __init__(self, connection: psycopg.Connection[Fields]) -> None:
        self._connection = connection
        self._queries = load_queries("postgres", find_folder("sql") / "sources")
        self._numbers = count(1)

    def tables(self) -> Columns:
        """The tables of the older service that there are."""
        rows = self._read(load_queries("postgres")["list_columns"].sql.encode(), [TABLES], many=False)
        return columns_from(tuple(row.values()) for row in rows)

    def rows(self, statement: str, *parameters: object, many: bool = False) -> Iterator[Fields]:
        """The rows of a statement; with `many` by a cursor on the server."""
        return self._read(self._queries[statement].sql.encode(), parameters, many=many)

    def _read(self, sql: bytes, parameters: Sequence[object], *, many: bool) -> Iterator[Fields]:
        try:
            if not many:
                yield from self._connection.execute(sql, parameters)
                return
            name = f"import {next(self._numbers)}"
            with psycopg.RawServerCursor(self._connection, name, row_factory=dict_row) as cursor:
                cursor.itersize = FETCHED
                yield from cursor.execute(sql, parameters)
        except psycopg.Error as error:
            raise SourceUnreadable(f"cannot be read: {_one_line(error)}") from error


@contextmanager
def open_old_postgres(url: str) -> Iterator[OldPostgres]:
    """The database at `url` as it is now. Raises SourceUnreadable."""
    try:
        with psycopg.connect(url, cursor_factory=psycopg.RawCursor, row_factory=dict_row) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            yield OldPostgres(connection)
    except psycopg.Error as error:
        raise SourceUnreadable(f"cannot be read: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
