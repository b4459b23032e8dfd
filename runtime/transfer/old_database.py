"""A database of the older service as a source, whichever database it is in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import tzinfo
from itertools import groupby, islice
from typing import Any, Protocol

from runtime.store.messages import NewMessage
from runtime.store.validation import is_key
from runtime.transfer.old_rows import Fields, SessionRows
from runtime.transfer.old_times import Times
from runtime.transfer.old_values import decoded
from runtime.transfer.schema import Columns as Tables
from runtime.transfer.schema import Schema, recognise
from runtime.transfer.source import Finding, Note, SourceSession

# How many sessions share a look-up of their contexts, switches and approvals.
PORTION = 200


class OldConnection(Protocol):
    """A connection that reads what stood in the database at one moment, by statements of sql/sources/."""

    has_all_naive_times_local: bool

    def tables(self) -> Tables:
        """The tables of the older service that there are."""

    def rows(self, statement: str, *parameters: object, many: bool = False) -> Iterator[Fields]:
        """The rows of a statement. With `many` they are not all in memory at a time."""


class OldDatabase:
    """Sessions of the older service. `zone` is that of the local times that its oldest versions wrote."""

    def __init__(self, connection: OldConnection, name: str, owner: str, zone: tzinfo | None) -> None:
        self.name = name
        self._connection = connection
        self._owner = owner
        self._schema: Schema = recognise(connection.tables())
        all_naive = connection.has_all_naive_times_local
        self._times = Times(zone, self._schema.local, all_naive=all_naive)
        self.description = f"a database of the older service, with tables as since {self._schema.version}"

    def count_sessions(self) -> int:
        """How many sessions it has."""
        [row] = self._connection.rows("count_sessions")
        count: int = row["sessions"]
        return count

    def sessions(self, note: Note) -> Iterator[SourceSession]:
        """Its sessions in the order of their keys."""
        rows = self._connection.rows(self._schema.sessions, many=True)
        while found := list(islice(rows, 1 if self._schema.is_inline else PORTION)):
            portion = [row for row in found if _is_named(row, note)]
            ids = [row["session_id"] for row in portion]
            approvals = self._approvals(ids)
            contexts = self._inline_contexts(ids) if self._schema.is_inline else self._contexts(portion)
            for row in portion:
                context, switches = contexts.get(row["session_id"], (None, ()))
                yield self._session(row, context, switches, approvals.get(row["session_id"], ()), note)

    def _session(
        self,
        row: Fields,
        context: Fields | None,
        switches: Sequence[Fields],
        approvals: Sequence[Fields],
        note: Note,
    ) -> SourceSession:
        rows = SessionRows(row, self._times, note)
        command = rows.command(self.name, self._owner, row, context, switches, approvals)
        if self._schema.is_inline:
            values = decoded(row["messages"])
            listed = enumerate(values if isinstance(values, list) else [values], 1)
            read = (rows.inline_message(number, value) for number, value in listed)
            messages: Iterator[NewMessage] = (new for new in read if new is not None)
        else:
            messages = self._messages(rows, row)
        return SourceSession(command, messages)

    def _messages(self, rows: SessionRows, row: Fields) -> Iterator[NewMessage]:
        if row["message_count"]:
            many = row["message_count"] > PORTION
            found = self._connection.rows("list_messages", row["id"], many=many)
            for number, message in enumerate(found, 1):
                if (new := rows.message(number, message)) is not None:
                    yield new

    def _contexts(self, sessions: Sequence[Fields]) -> dict[str, tuple[Fields, Sequence[Fields]]]:
        """The contexts of sessions by the session's own id, each with its switches."""
        if not self._schema.contexts:
            return {}
        ids = {row["id"]: row["session_id"] for row in sessions}
        contexts = list(self._connection.rows("list_contexts", list(ids)))
        switches: dict[object, list[Fields]] = {}
        if contexts and self._schema.switches:
            keys = [context["id"] for context in contexts]
            switches = _grouped(self._connection.rows("list_switches", keys), "context_db_id")
        return {
            ids[context["session_db_id"]]: (context, switches.get(context["id"], ())) for context in contexts
        }

    def _inline_contexts(self, ids: list[str]) -> dict[str, tuple[Fields, Sequence[Fields]]]:
        if not self._schema.contexts:
            return {}
        contexts = self._connection.rows("list_inline_contexts", ids)
        return {context["session_id"]: _inline_context(context) for context in contexts}

    def _approvals(self, ids: list[str]) -> dict[str, list[Fields]]:
        if self._schema.approvals is None:
            return {}
        rows = self._connection.rows(self._schema.approvals, ids)
        return _grouped(sorted(rows, key=lambda row: str(row["session_id"])), "session_id")

    def note_leftovers(self, note: Note) -> None:
        """Note what belongs to no session, or has no place here."""
        for kind, statement in self._schema.leftovers:
            for row in self._connection.rows(statement, many=True):
                note(Finding(kind, str(row["name"]), row["things"]))


def _is_named(row: Fields, note: Note) -> bool:
    """Whether a session has an id that may be one here; one without is noted."""
    if is_key(row["session_id"]):
        return True
    count = f" with {row['message_count']} messages" if "message_count" in row else ""
    note(Finding("sessions_refused", f"session {row['session_id']!r}{count}"))
    return False


def _grouped(rows: Iterable[Fields], name: str) -> dict[Any, list[Fields]]:
    """Rows that come in groups, by the column that they share."""
    return {key: list(group) for key, group in groupby(rows, key=lambda row: row[name])}


def _inline_context(row: Fields) -> tuple[Fields, Sequence[Fields]]:
    """A context of the first version in the columns of the later ones, and its switches."""
    history = decoded(row["agent_history"])
    entries = [entry for entry in history if isinstance(entry, dict)] if isinstance(history, list) else []
    context = {
        "current_agent": row["current_agent"],
        "created_at": row["created_at"],
        "updated_at": row["last_switch_at"],
        "metadata_json": row["context_metadata"],
    }
    return context, [
        {
            "from_agent": entry.get("from"),
            "to_agent": entry.get("to", row["current_agent"]),
            "switched_at": entry.get("timestamp", row["created_at"]),
            "reason": entry.get("reason"),
            "metadata_json": None,
        }
        for entry in entries
    ]
