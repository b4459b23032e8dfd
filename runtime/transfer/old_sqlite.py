"""A SQLite file of the older service: read from a snapshot of it, which changes nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.db.queries import find_folder, load_queries
from runtime.db.sqlite_snapshot import open_snapshot
from runtime.errors import SourceUnreadable
from runtime.store.validation import json_list
from runtime.transfer.old_rows import Fields
from runtime.transfer.schema import TABLES, Columns, columns_from


class OldSqlite:
    """A snapshot of a file."""

    has_all_naive_times_local = False

    def __init__(self, connection: sqlite3.Connection) -> None:
        # Bytes that are no UTF-8 become halves of surrogate pairs, which are written out later.
        connection.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
        self._connection = connection
        self._queries = load_queries("sqlite", find_folder("sql") / "sources")

    def tables(self) -> Columns:
        """The tables of the older service that there are."""
        rows = self._read(load_queries("sqlite")["list_columns"].sql, (TABLES,))
        return columns_from(tuple(row.values()) for row in rows)

    def rows(self, statement: str, *parameters: object, many: bool = False) -> Iterator[Fields]:
        """The rows of a statement, read as they are taken."""
        texts = [json_list(each) if isinstance(each, list) else each for each in parameters]
        return self._read(self._queries[statement].sql, texts)

    def _read(self, sql: str, parameters: Sequence[Any]) -> Iterator[dict[str, object]]:
        try:
            cursor = self._connection.execute(sql, parameters)
            names = [column[0] for column in cursor.description]
            for row in cursor:
                yield dict(zip(names, row, strict=True))
        except sqlite3.Error as error:
            raise SourceUnreadable(f"cannot be read: {error}") from error


@contextmanager
def open_old_sqlite(path: Path) -> Iterator[OldSqlite]:
    """The file at `path` as it is now. Raises SourceUnreadable."""
    try:
        with open_snapshot(path) as connection:
            yield OldSqlite(connection)
    except (sqlite3.Error, OSError) as error:
        raise SourceUnreadable(f"cannot be read: {error}") from error
