"""The schemas of the older service, told by the columns of each table.

No version of it altered a table, and each made those that lacked: so there may be tables of several versions,
and each is recognised by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from runtime.db.database import Row
from runtime.errors import SourceUnreadable

Columns = Mapping[str, Mapping[str, bool]]
"""The tables that there are: the columns of each, and whether these are NOT NULL."""

_TABLES = ("sessions", "messages", "agent_contexts", "agent_switches", "pending_approvals")
_OTHERS = ("plans", "subtasks", "fsm_states")
TABLES = msgspec.json.encode([*_TABLES, *_OTHERS]).decode()
"""The parameter of `list_columns` that names every table of the older service."""

# A column of each table, by which it is not another program's of the same name: agent-runtime itself may have
# begun to make its own in an old database.
_OLD_COLUMNS: Mapping[str, set[str]] = {
    "messages": {"metadata_json"},
    "agent_contexts": {"metadata_json", "agent_history"},
    "agent_switches": {"context_db_id"},
    "pending_approvals": {"session_id"},
}

LocalTimes = Literal["all", "activity", "unsure", "idle"]


@dataclass(frozen=True)
class Schema:
    """How to read a database of the older service.

    `sessions`, `approvals` and `leftovers` name statements of sql/sources/; leftovers come with their kinds.
    `local` says which times are local ones of the service: `all`; `activity`, those of the last activity, of
    contexts and of switches; `unsure`, these or none, which each session tells; `idle`, the last activity of
    a session without messages.
    """

    version: str
    sessions: str
    is_inline: bool
    contexts: bool
    switches: bool
    approvals: str | None
    leftovers: tuple[tuple[str, str], ...]
    local: LocalTimes


def columns_from(rows: Iterable[Row]) -> Columns:
    """The columns by table, from rows of `list_columns`."""
    found: dict[str, dict[str, bool]] = {}
    for table, column, required in rows:
        found.setdefault(table, {})[column] = bool(required)
    return found


def recognise(tables: Columns) -> Schema:
    """The schema of a database with these tables. Raises SourceUnreadable where it is none that is known."""
    tables = {name: columns for name, columns in tables.items() if _is_old(name, columns)}
    sessions = tables.get("sessions", {})
    if "owner" in sessions:
        raise SourceUnreadable("is a database of agent-runtime itself: there is nothing to import")
    is_inline = "messages" in sessions
    if not is_inline and not ("deleted_at" in sessions and "messages" in tables):
        found = ", ".join(sorted(tables)) or "none of its tables"
        raise SourceUnreadable(f"is no database of the older service: it has {found}")
    approvals = _approvals(tables)
    return Schema(
        version=_version(tables, is_inline),
        sessions=_sessions(sessions, is_inline),
        is_inline=is_inline,
        contexts=("agent_history" if is_inline else "metadata_json") in tables.get("agent_contexts", {}),
        switches="agent_switches" in tables,
        approvals=approvals,
        leftovers=tuple(_leftovers(tables, is_inline, approvals)),
        local=_local(tables, is_inline),
    )


def _is_old(name: str, columns: Mapping[str, bool]) -> bool:
    return name not in _OLD_COLUMNS or not _OLD_COLUMNS[name].isdisjoint(columns)


def _sessions(sessions: Mapping[str, bool], is_inline: bool) -> str:
    if is_inline:
        return "list_inline_sessions"
    if "title" not in sessions:
        return "list_untitled_sessions"
    return "list_numbered_sessions" if "session_id" in sessions else "list_sessions"


def _approvals(tables: Columns) -> str | None:
    columns = tables.get("pending_approvals", {})
    if "request_type" in columns:
        return "list_requests"
    return "list_approvals" if columns else None


def _local(tables: Columns, is_inline: bool) -> LocalTimes:
    if is_inline:
        return "all"
    if tables["messages"]["content"]:
        return "activity"
    # Two versions that made the same tables differ in their times.
    return "idle" if "title" in tables["sessions"] else "unsure"


def _version(tables: Columns, is_inline: bool) -> str:
    """The first version that made tables as the newest of these."""
    approvals, sessions = tables.get("pending_approvals", {}), tables.get("sessions", {})
    if is_inline:
        return "174717a"
    for version, is_it in (
        ("0e3dfa5", "fsm_states" in tables),
        ("24808dd", "plans" in tables),
        ("7c039df", "request_type" in approvals),
        ("6d3bcf2", bool(approvals) and "approval_id" not in approvals),
        ("b50f487", "session_id" not in sessions),
        ("a45c035", "id" in approvals),
        ("85e2625", "title" in sessions),
        ("aa20a02", bool(approvals)),
        ("c4e3664", tables["messages"]["content"]),
    ):
        if is_it:
            return version
    return "ce8d0d0"


def _leftovers(tables: Columns, is_inline: bool, approvals: str | None) -> Iterable[tuple[str, str]]:
    """The kinds of what may be left, and the statements that list it."""
    if not is_inline:
        yield "messages_without_session", "list_orphan_messages"
    if "agent_history" in tables.get("agent_contexts", {}):
        if is_inline:
            yield "contexts_without_session", "list_orphan_inline_contexts"
    elif "agent_contexts" in tables and not is_inline:
        yield "contexts_without_session", "list_orphan_contexts"
        if "agent_switches" in tables:
            yield "switches_without_session", "list_orphan_switches"
    if approvals is not None:
        numbered = "numbered_" if "session_id" in tables["sessions"] else ""
        yield "approvals_without_session", approvals.replace("list_", f"list_orphan_{numbered}")
    if approvals == "list_requests":
        yield "plan_approvals", "list_plan_approvals"
    for table in _OTHERS:
        if table in tables:
            yield table, f"list_{table}"
