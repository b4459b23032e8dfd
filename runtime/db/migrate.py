"""Migrations: plain SQL of migrations/<dialect>/, applied by yoyo, of which only this file knows.

Everything that yoyo does happens under a lock of ours, so that any number of processes may start at once:
an advisory lock on Postgres, the lock file of W13 on SQLite. What is applied is read without yoyo, which
writes tables of its own as soon as it connects.
"""

from __future__ import annotations

import asyncio
import glob
import logging
import os
import socket
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from runtime.db.database import Dialect, MigrateMode
from runtime.db.queries import find_folder, load_queries
from runtime.db.url import DatabaseUrl
from runtime.errors import AgentRuntimeError, DatabaseInUse, MigrationError
from runtime.retry import growing_pauses
from runtime.uncancellable import run_to_completion

logger = logging.getLogger("agent_runtime.db")

# How long to wait for another process that is migrating the same Postgres, in seconds.
LOCK_SECONDS = 60
# How long a migration waits for a table that others use, in milliseconds; then it gives up its locks and
# begins again. Less than the second after which Postgres ends one of two that wait for each other: no read
# fails for it.
TABLE_LOCK_MS = 300
# SQLSTATE: lock_not_available, deadlock_detected.
LOCKED_STATES = ("55P03", "40P01")
# How many rows are copied at first, and how long a portion should take, in seconds.
FIRST_PORTION, PORTION_SECONDS = 100, 0.2
# How often to log how many rows are copied, in seconds: somebody waits for the start.
PROGRESS_SECONDS = 10.0


@dataclass(frozen=True)
class Migration:
    """One step of the schema: its id, the SQL that makes it and the SQL that takes it back."""

    id: str
    sql: str
    rollback_sql: str


def list_migrations(dialect: Dialect) -> list[Migration]:
    """Every migration that the program knows, oldest first."""
    folder = find_folder("migrations") / dialect
    paths = sorted(path for path in folder.glob("*.sql") if not path.name.endswith(".rollback.sql"))
    return [Migration(path.stem, _read(path), _read(path.with_suffix(".rollback.sql"))) for path in paths]


async def pending_migrations(url: str) -> list[Migration]:
    """The migrations that the database lacks, oldest first; nothing is written.

    Raises MigrationError when the database is newer than the program, and StartupError.
    """
    parsed = DatabaseUrl.parse(url)
    if parsed.dialect == "sqlite" and os.path.exists(parsed.address):  # noqa: ASYNC240
        # Sees whether the file is whole: to read the WAL of a killed process is to forget what it lacks.
        with suppress(DatabaseInUse), _owned(parsed):
            pass
    return await _list_pending(parsed)


async def apply_migrations(url: str) -> list[str]:
    """Apply what is pending and return the ids that were applied here. Raises StartupError kinds."""
    parsed = DatabaseUrl.parse(url)
    with _owned(parsed):
        return await _apply(parsed) if await _list_pending(parsed) else []


async def rollback_migrations(url: str, count: int) -> list[str]:
    """Take back the last `count` migrations; return their ids, latest first. Raises StartupError kinds."""
    parsed = DatabaseUrl.parse(url)
    with _owned(parsed):
        await _list_pending(parsed)  # Refuses a database that is newer: its last steps are not known here.
        return await run_to_completion(asyncio.to_thread(_roll_back_last, parsed, count))


async def prepare_schema(url: DatabaseUrl, mode: MigrateMode) -> None:
    """Bring the schema up to date, or with `check` refuse to start with an old one.

    The caller holds the lock file of a SQLite database. Where nothing is pending, which costs one read
    to find out, yoyo is not even imported.
    """
    pending = await _list_pending(url)
    if pending and mode == "check":
        raise MigrationError(f"{_names(pending)} pending; run `agent-runtime migrate` first")
    if pending:
        await _apply(url)


async def _list_pending(url: DatabaseUrl) -> list[Migration]:
    known = list_migrations(url.dialect)
    applied = set(await _list_applied(url))
    unknown = sorted(applied - {migration.id for migration in known})
    if unknown:
        raise MigrationError(
            f"the database {url} is newer than this program, which does not know {', '.join(unknown)}; "
            "run a newer agent-runtime"
        )
    return [migration for migration in known if migration.id not in applied]


async def _list_applied(url: DatabaseUrl) -> list[str]:
    if url.dialect == "postgres":
        from runtime.db.postgres import list_applied
    else:
        from runtime.db.sqlite import list_applied
    return await list_applied(url)


async def _apply(url: DatabaseUrl) -> list[str]:
    # To its end: the lock file must not be given up while yoyo is at work in its thread.
    applied = await run_to_completion(asyncio.to_thread(_apply_pending, url))
    # yoyo has ways of leaving a migration out without a word.
    if pending := await _list_pending(url):
        raise MigrationError(f"{_names(pending)} still pending after migrating {url}")
    for migration_id in applied:
        logger.info("applied migration %s", migration_id)
    return applied


def _apply_pending(url: DatabaseUrl) -> list[str]:
    with _yoyo(url) as (backend, migrations):
        applied = []
        for migration in backend.to_apply(migrations):
            _run(lambda each: _copy_portions(url, each.id), migration)
            applied.append(_run(backend.apply_one, migration))
        return applied


def _copy_portions(url: DatabaseUrl, migration_id: str) -> None:
    """Do what precedes a migration in portions: a large table is copied in many transactions.

    Each statement of portions/<id>.sql is repeated, with as many `:rows` as take about PORTION_SECONDS, until
    it changes nothing. The statements of the migration before are repeated first: they make the tables that
    are filled, also where this migration is in and only its mark was lost.
    """
    path = find_folder("migrations") / url.dialect / "portions" / f"{migration_id}.sql"
    if not path.exists():
        return
    began = logged = time.monotonic()
    copied = 0
    known = list_migrations(url.dialect)
    before = known[[each.id for each in known].index(migration_id) - 1]
    with closing(sqlite3.connect(url.address, isolation_level=None)) as connection:
        connection.executescript(before.sql)
        for statement in filter(str.strip, _read(path).split(";")):
            rows, started = FIRST_PORTION, time.monotonic()
            while (done := connection.execute(statement, {"rows": rows}).rowcount) > 0:
                ended = time.monotonic()
                copied += done
                if ended - logged >= PROGRESS_SECONDS:
                    logged = ended
                    logger.info("%s: %d rows are copied in %.0f s", migration_id, copied, ended - began)
                fitting = rows * PORTION_SECONDS / max(ended - started, 0.001)
                rows, started = max(1, min(int(fitting), 2 * rows)), time.monotonic()


def _roll_back_last(url: DatabaseUrl, count: int) -> list[str]:
    with _yoyo(url) as (backend, migrations):
        return [_run(backend.rollback_one, each) for each in backend.to_rollback(migrations)[:count]]


def _run(step: Callable[[Any], None], migration: Any) -> str:
    """Do the step, again and again for LOCK_SECONDS where others use its tables."""
    give_up = time.monotonic() + LOCK_SECONDS
    for pause in growing_pauses():
        try:
            step(migration)
            break
        except Exception as error:
            locked = getattr(error, "sqlstate", None) in LOCKED_STATES
            if not locked or time.monotonic() >= give_up:
                raise MigrationError(f"migration {migration.id} failed: {_one_line(error)}") from error
        time.sleep(pause)
    return str(migration.id)


@contextmanager
def _yoyo(url: DatabaseUrl) -> Iterator[tuple[Any, Any]]:
    """A yoyo backend, held under our lock, and the migrations."""
    import yoyo

    folder = find_folder("migrations") / url.dialect
    try:
        with _advisory_lock(url), yoyo.get_backend(_yoyo_url(url)) as backend:
            backend.get_log_data = _log_data
            # A row that a crash has left behind: who else could hold it has our lock, which we have.
            backend.break_lock()
            yield backend, yoyo.read_migrations(glob.escape(str(folder)))
    except AgentRuntimeError:
        raise
    except Exception as error:
        raise MigrationError(f"cannot migrate {url}: {_one_line(error)}") from error


@contextmanager
def _advisory_lock(url: DatabaseUrl) -> Iterator[None]:
    """Keep every other process from migrating this Postgres. On SQLite the lock file does that."""
    if url.dialect == "sqlite":
        yield
        return
    import psycopg

    with psycopg.connect(url.address, autocommit=True) as connection:
        connection.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
        try:
            connection.execute(load_queries("postgres")["lock_migrations"].sql)
        except psycopg.errors.LockNotAvailable as error:
            reason = f"another process has been migrating {url} for {LOCK_SECONDS} s"
            raise MigrationError(reason) from error
        yield


def _yoyo_url(url: DatabaseUrl) -> str:
    if url.dialect == "sqlite":
        # yoyo puts the path into a file: URI as it stands.
        return f"sqlite:///{quote(url.address)}"
    from psycopg.conninfo import conninfo_to_dict

    # By keywords: of a URL's path yoyo would take a percent-encoded name as it stands.
    words = {word: value for word, value in conninfo_to_dict(url.address).items() if value is not None}
    # As every connection of ours: a migration must not conflict with servers that write meanwhile.
    isolation = "-c default_transaction_isolation=read\\ committed"
    words["options"] = f"{words.get('options', '')} {isolation} -c lock_timeout={TABLE_LOCK_MS}"
    return f"postgresql+psycopg:///?{urlencode(words)}"


def _log_data(migration: Any = None, operation: str = "apply") -> dict[str, Any]:
    """What yoyo notes of a migration. Its own version fails where the user id has no name, as in many
    containers, and waits for a name server.
    """
    return {
        "id": str(uuid.uuid1()),
        "migration_id": migration.id if migration else None,
        "migration_hash": migration.hash if migration else None,
        "username": str(os.getuid()),
        "hostname": socket.gethostname(),
        "created_at_utc": datetime.now(UTC).replace(tzinfo=None),
        "operation": operation,
    }


@contextmanager
def _owned(url: DatabaseUrl) -> Iterator[None]:
    if url.dialect == "postgres":
        yield
        return
    from runtime.db.sqlite_integrity import own_file

    lock = own_file(Path(url.address))
    try:
        yield
    finally:
        lock.release()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise MigrationError(f"cannot read {path}: {error.strerror}") from error


def _names(migrations: list[Migration]) -> str:
    names = ", ".join(migration.id for migration in migrations)
    return f"migration {names} is" if len(migrations) == 1 else f"migrations {names} are"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
