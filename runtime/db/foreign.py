"""Whether tables named as ours are ours: known by a column that no other program gives them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from runtime.db.database import Row
from runtime.errors import ForeignDatabase

# A column of each table that is there since its first migration and that the older service's table lacks.
_OUR_COLUMNS: Mapping[str, str] = {
    "sessions": "owner",
    "messages": "seq",
    "agent_contexts": "metadata",
    "agent_switches": "n",
    "pending_approvals": "session_db_id",
    "idempotency_keys": "fingerprint",
    "writers": "batch",
    "turns": "turn_id",
    "turn_events": "data",
    "tokens": "hash",
    "imported_sessions": "whole_version",
}

OUR_TABLES = msgspec.json.encode(list(_OUR_COLUMNS)).decode()
"""The parameter of `list_columns` that names all of our tables."""


def check_ours(database: str, rows: Iterable[Row]) -> bool:
    """Whether a database has tables of ours, seen by its rows of `list_columns`.

    `database` is its URL without the password. Raises ForeignDatabase where a table has the name of one of
    ours and is not ours.
    """
    columns: dict[str, set[str]] = {}
    for table, column, *_ in rows:
        columns.setdefault(table, set()).add(column)
    if foreign := [name for name in columns if _OUR_COLUMNS[name] not in columns[name]]:
        raise ForeignDatabase(
            f"DB_URL: {database} holds tables of another program ({', '.join(sorted(foreign))}) and was not "
            f"changed; set DB_URL to a new database, and fill it with `agent-runtime import {database}`"
        )
    return bool(columns)
