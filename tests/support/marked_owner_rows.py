"""An owner with a row in every table, each text of whom has a mark, and where the mark is found."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from runtime.store.records import SessionKey
from runtime.store.store import Store
from runtime.store.write.commands import ImportSession
from runtime.store.write.turn_commands import AdvanceTurn, Ending
from tests.support.running_turns import note, user

MARK = "hush-hush-7f3a"
OWNER = f"{MARK} owner"
NOON = datetime(2026, 1, 7, 12, tzinfo=UTC)


def message(number: int = 0, mark: str = MARK, **more: Any) -> dict[str, Any]:
    text = f"{mark} {number}"
    return {**user(text), "metadata": {mark: mark}, "extra": mark, "name": mark, **more}


async def fill(store: Store, owner: str = OWNER, mark: str = MARK) -> None:
    """Give an owner three sessions with all that a session can have, keys and two tokens."""
    fields = {"title": mark, "description": mark, "metadata": {"a": mark}, "owner": owner}
    for name in ("open", "deleted"):
        messages = [message(1, mark), message(2, mark)]
        await store.create_session(
            f"{mark} {name}", agent=mark, messages=messages, idempotency_key=name, **fields
        )
    session_id = f"{mark} open"
    await store.append_messages(session_id, [message(3, mark)], owner=owner, idempotency_key=mark)
    await store.switch_agent(session_id, f"{mark} b", reason=mark, metadata={"a": mark}, owner=owner)
    await store.update_context(session_id, {"a": mark}, owner=owner)
    await store.create_approval(session_id, f"{mark} c", mark, {"a": mark}, reason=mark, owner=owner)
    await store.decide_approval(
        session_id, f"{mark} c", "edit", modified_arguments={"a": mark}, feedback=mark, owner=owner
    )
    await _take_turn(store, session_id, owner, mark)
    await store.delete_session(f"{mark} deleted", owner=owner)
    await _import(store, owner, mark)
    for scope in ("read", "admin"):
        await store.tokens.create(f"{mark} token", owner=owner, scope=scope)  # type: ignore[arg-type]


async def _take_turn(store: Store, session_id: str, owner: str, mark: str) -> None:
    started = await store.turns.start_turn(session_id, messages=[message(4, mark)], owner=owner)
    step = AdvanceTurn(
        SessionKey(owner, session_id),
        started.turn.turn_id,
        store.turns.instance,
        started.beat,
        texts=(mark,),
        events=(note(mark),),
        ending=Ending("failed", f'"{mark}"'),
    )
    await store.turns.advance_turn(step)


async def _import(store: Store, owner: str, mark: str) -> None:
    session = ImportSession(
        SessionKey(owner, f"{mark} imported"),
        source=f"sqlite:///{mark}.db",
        created_at=NOON,
        last_activity=NOON,
        context_created_at=NOON,
        context_updated_at=NOON,
        title=f'"{mark}"',
    )
    [stored] = await store.imports.store([session])
    assert not isinstance(stored, Exception), stored


def tables_with(url: str, mark: str = MARK) -> dict[str, int]:
    """How many rows of each table have a text."""
    with closing(connect(url)) as connection:
        found = {name: rows_with(connection, name, mark) for name in tables(connection, url)}
    return {name: count for name, count in found.items() if count}


def connect(url: str) -> Any:
    return sqlite3.connect(url.removeprefix("sqlite:///")) if is_sqlite(url) else psycopg.connect(url)


def is_sqlite(url: str) -> bool:
    return url.startswith("sqlite")


def tables(connection: Any, url: str) -> list[str]:
    sql = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
    if is_sqlite(url):
        sql = "SELECT name FROM sqlite_schema WHERE type = 'table'"
    return sorted(name for (name,) in connection.execute(sql))


def rows_with(connection: Any, table: str, mark: str) -> int:
    return sum(mark in repr(row) for row in connection.execute(f'SELECT * FROM "{table}"'))


def rows_of_others(url: str) -> dict[str, list[str]]:
    """Every row without the mark of the tables that have owners or sessions, but for the erased token."""
    with closing(connect(url)) as connection:
        return {
            name: sorted(
                row for row in map(repr, connection.execute(f'SELECT * FROM "{name}"')) if MARK not in row
            )
            for name in tables(connection, url)
            if name not in ("writers", "tokens", "sqlite_sequence")
            # The index of words has another form after each merge.
            if not name.startswith(("_yoyo", "search_words"))
        }


def files_with(url: str, mark: str = MARK) -> list[str]:
    """The files of a database that hold a text, after a checkpoint."""
    if is_sqlite(url):
        path = Path(url.removeprefix("sqlite:///"))
        files = [path, path.with_name(path.name + "-wal")]
    else:
        with closing(psycopg.connect(url, autocommit=True)) as connection:
            connection.execute("CHECKPOINT")
            folder = connection.execute("SHOW data_directory").fetchone()
            oid = connection.execute(
                "SELECT oid FROM pg_database WHERE datname = current_database()"
            ).fetchone()
        assert folder is not None
        assert oid is not None
        files = sorted(Path(folder[0], "base", str(oid[0])).iterdir())
        assert len(files) > 100
    return [path.name for path in files if path.exists() and mark.encode() in path.read_bytes()]
