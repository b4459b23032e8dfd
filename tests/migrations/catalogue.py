"""The schema of a database as its own catalogue tells it, in the same words for SQLite and Postgres."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg

POSTGRES_COLUMNS = """
    SELECT table_name, column_name, is_nullable = 'NO' FROM information_schema.columns
     WHERE table_schema = 'public'
"""
# Without the indexes that keep a constraint: those have names of the database's own making. And without that
# of the words, which on SQLite is a table of another kind.
POSTGRES_INDEXES = """
    SELECT t.relname, i.relname, array(
               SELECT a.attname::text FROM unnest(x.indkey) WITH ORDINALITY AS k (attnum, n)
                 JOIN pg_attribute AS a ON a.attrelid = x.indrelid AND a.attnum = k.attnum ORDER BY k.n),
           x.indisunique, x.indpred IS NOT NULL,
           EXISTS (SELECT FROM pg_constraint AS c WHERE c.conindid = x.indexrelid)
      FROM pg_index AS x
      JOIN pg_class AS i ON i.oid = x.indexrelid
      JOIN pg_class AS t ON t.oid = x.indrelid
     WHERE t.relnamespace = 'public'::regnamespace AND i.relname <> 'search_entries_words'
"""
SQLITE_COLUMNS = """
    SELECT t.name, c.name, c."notnull" = 1 OR c.pk > 0 FROM sqlite_schema AS t, pragma_table_info(t.name) AS c
     WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%' AND t.name NOT LIKE 'search_words%'
"""
SQLITE_INDEXES = """
    SELECT t.name, i.name, json_group_array(c.name), i."unique" = 1, i.partial = 1, i.origin <> 'c'
      FROM sqlite_schema AS t, pragma_index_list(t.name) AS i, pragma_index_info(i.name) AS c
     WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%' AND t.name NOT LIKE 'search_words%'
     GROUP BY t.name, i.name
"""

Catalogue = dict[str, Any]


def sqlite_path(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def query(url: str, sql: str) -> list[tuple[Any, ...]]:
    """Ask a database directly, past our code."""
    if url.startswith("postgres"):
        with psycopg.connect(url, autocommit=True) as postgres:
            cursor = postgres.execute(sql)
            return cursor.fetchall() if cursor.description else []
    with closing(sqlite3.connect(sqlite_path(url), isolation_level=None)) as sqlite:
        return sqlite.execute(sql).fetchall()


def read_catalogue(url: str) -> Catalogue:
    """Tables with their columns, which of those must be set, and indexes; yoyo's own left out."""
    postgres = url.startswith("postgres")
    columns = query(url, POSTGRES_COLUMNS if postgres else SQLITE_COLUMNS)
    indexes = query(url, POSTGRES_INDEXES if postgres else SQLITE_INDEXES)
    return {
        "columns": {(t, c, bool(needed)) for t, c, needed in columns if "yoyo" not in t},
        "indexes": {
            (table, name, str(names).replace("'", '"').replace(", ", ","), bool(unique), bool(partial))
            for table, name, names, unique, partial, constraint in indexes
            if "yoyo" not in table and not constraint
        },
    }
