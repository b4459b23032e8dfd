"""The tables of a store in memory, with the statements of sql/sqlite: what `plan` has written can be read."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from msgspec import structs

from runtime.db.queries import find_folder, load_queries
from runtime.db.sqlite_dialect import bind
from runtime.store.cache import Cache
from runtime.store.cuts import measure_cut
from runtime.store.records import SessionKey
from runtime.store.write.batch import PlanInput
from runtime.store.write.commands import Request
from runtime.store.write.erasing import AtOnce
from runtime.store.write.loader import Loader
from runtime.store.write.statements import STATEMENTS, Rows

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
    "session_labels": "session_db_id, name, value, owner",
    "turns": "*",
    "turn_events": "*",
}

Columns = dict[str, Any]
Result = TypeVar("Result")


class Tables:
    """A migrated SQLite in memory. It is to the loader what an open transaction is."""

    def __init__(self, at_once: AtOnce | None = None) -> None:
        self._at_once = at_once
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

    def known(self, requests: Sequence[Request], truth: Cache | None = None) -> PlanInput:
        """What the loader reads for a batch; it takes the heads that `truth` has from there."""
        return run(Loader(truth or Cache(0), sole_writer=True, at_once=self._at_once).load(self, requests))

    def measured(self, request: Request) -> Request:
        """The request with what its cut takes away, as the store measures it."""
        head, after = self.known([request]).heads[request.key], getattr(request.command, "after", 0)
        return structs.replace(request, measured=run(measure_cut(self, head, after)))

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
        rows = {row["id"]: dict(row) for row in self._select("sessions WHERE owner IS NOT NULL ORDER BY id")}
        cuts = {id: (row.pop("cut_after"), row.pop("cut_through")) for id, row in rows.items()}
        for row in rows.values():
            # How it is stored, not what is stored.
            del row["size"]
        keys = {id: SessionKey(row.pop("owner"), row.pop("session_id")) for id, row in rows.items()}
        found: dict[SessionKey, Columns]
        found = {keys[id]: {"session": row, **{table: [] for table in COMPARED}} for id, row in rows.items()}
        for table, columns in COMPARED.items():
            for row in self._select(f"{table} ORDER BY 1, 2, 3", columns):  # type: ignore[assignment]
                id, *rest = row
                # What is still to be erased is not there.
                if id in keys and not (table == "messages" and cuts[id][0] < rest[0] <= cuts[id][1]):
                    found[keys[id]][table].append(tuple(rest))
        return found

    def bare_sessions(self) -> set[int]:
        """The ids of the sessions without an agent context of their own."""
        return {row["session_db_id"] for row in self._select("bare_sessions")}

    def count_rows(self) -> dict[str, int]:
        """How many rows each table has, also of what is gone."""
        return {
            table: self._connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("sessions", *COMPARED)
        }

    def replies(self) -> dict[tuple[str, str], tuple[str, str]]:
        """The fingerprint and the reply under each idempotency key."""
        return {
            (row["owner"], row["key"]): (row["fingerprint"], row["reply"])
            for row in self._select("idempotency_keys")
        }

    def _select(self, table: str, columns: str = "*") -> Sequence[sqlite3.Row]:
        return self._connection.execute(f"SELECT {columns} FROM {table}").fetchall()


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """What a coroutine returns that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return cast(Result, done.value)
    raise AssertionError("nothing here has to be waited for")


def json_or_none(text: str | None) -> Any:
    return None if text is None else json.loads(text)
