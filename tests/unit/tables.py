"""The tables of a store in memory, with the statements of sql/sqlite: what `plan` has written can be read."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from runtime.db.queries import find_folder, load_queries
from runtime.db.sqlite_dialect import bind
from runtime.store.batch import Known
from runtime.store.cache import Cache
from runtime.store.commands import Request, SessionKey
from runtime.store.loader import Loader
from runtime.store.statements import STATEMENTS, Rows

# These touch one row, always; the others as many as there are.
ONE_ROW = ("insert_", "update_", "delete_session", "delete_approval")

# The columns by which the rows of a session are told apart and compared, its id first.
COMPARED = {
    "messages": "session_db_id, seq, role, content, timestamp, name, tool_call_id, tool_calls, token_count,"
    " metadata, extra",
    "agent_contexts": "*",
    "agent_switches": "session_db_id, n, from_agent, to_agent, switched_at, reason, metadata",
    "pending_approvals": "session_db_id, call_id, tool_name, arguments, reason, status, created_at,"
    " expires_at, decided_at, modified_arguments, feedback",
    "turns": "*",
    "turn_events": "*",
}

Columns = dict[str, Any]


class Tables:
    """A migrated SQLite in memory. It is to the loader what an open transaction is."""

    def __init__(self) -> None:
        self._queries = load_queries("sqlite")
        self._connection = sqlite3.connect(
            ":memory:", isolation_level=None, detect_types=sqlite3.PARSE_DECLTYPES
        )
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA foreign_keys = ON")
        for path in sorted((find_folder("migrations") / "sqlite").glob("*.sql")):
            if not path.name.endswith(".rollback.sql"):
                self._connection.executescript(path.read_text(encoding="utf-8"))

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def undone(self) -> Iterator[Tables]:
        """Tables that are empty again at the end."""
        self._connection.execute("BEGIN")
        try:
            yield self
        finally:
            self._connection.execute("ROLLBACK")

    async def fetch(self, statement: str, *parameters: object) -> Sequence[sqlite3.Row]:
        return self._connection.execute(self._queries[statement].sql, bind(parameters)).fetchall()

    async def execute_many(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        self._write(statement, rows)

    def known(self, requests: Sequence[Request], truth: Cache | None = None) -> Known:
        """What the loader reads for a batch; it takes the heads that `truth` has from there."""
        loading = Loader(truth or Cache(0), sole_writer=True).load(self, requests)
        try:
            loading.send(None)
        except StopIteration as done:
            known: Known = done.value
            return known
        raise AssertionError("nothing here has to be waited for")

    def apply(self, rows: Rows) -> None:
        """Write what was planned, in the order in which the writer does."""
        assert rows.keys() <= set(STATEMENTS)
        for statement in STATEMENTS:
            self._write(statement, rows.get(statement, ()))

    def _write(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        for row in rows:
            written = self._connection.execute(self._queries[statement].sql, bind(row)).rowcount
            assert written == 1 or not statement.startswith(ONE_ROW), (statement, row, written)

    def sessions(self) -> dict[SessionKey, Columns]:
        """Each session with all that belongs to it, by table."""
        rows = {row["id"]: dict(row) for row in self._select("sessions ORDER BY id")}
        for row in rows.values():
            # How it is stored, not what is stored.
            del row["size"], row["cut_after"], row["cut_through"]
        keys = {id: SessionKey(row.pop("owner"), row.pop("session_id")) for id, row in rows.items()}
        found: dict[SessionKey, Columns]
        found = {keys[id]: {"session": row, **{table: [] for table in COMPARED}} for id, row in rows.items()}
        for table, columns in COMPARED.items():
            for row in self._select(f"{table} ORDER BY 1, 2, 3", columns):
                found[keys[row["session_db_id"]]][table].append(tuple(row)[1:])
        return found

    def replies(self) -> dict[tuple[str, str], tuple[str, str]]:
        """The fingerprint and the reply under each idempotency key."""
        return {
            (row["owner"], row["key"]): (row["fingerprint"], row["reply"])
            for row in self._select("idempotency_keys")
        }

    def _select(self, table: str, columns: str = "*") -> Sequence[sqlite3.Row]:
        return self._connection.execute(f"SELECT {columns} FROM {table}").fetchall()


def json_or_none(text: str | None) -> Any:
    return None if text is None else json.loads(text)
