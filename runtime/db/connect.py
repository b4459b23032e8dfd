"""Opens the database that a URL names, migrated."""

from __future__ import annotations

import logging
from pathlib import Path

from runtime.config import DEFAULTS
from runtime.db.database import Database, MigrateMode, PoolLimits
from runtime.db.migrate import prepare_schema
from runtime.db.url import DatabaseUrl
from runtime.errors import DatabaseInUse

logger = logging.getLogger("agent_runtime.db")


async def open_database(
    url: str,
    *,
    migrate: MigrateMode = DEFAULTS.migrate,
    pool_min: int = DEFAULTS.pool_min,
    pool_max: int = DEFAULTS.pool_max,
    pool_timeout: float = DEFAULTS.pool_timeout,
    command_timeout: float = DEFAULTS.command_timeout,
    slow_query_ms: float = DEFAULTS.slow_query_ms,
    beside_owner: bool = False,
) -> Database:
    """Open the database at `url`, migrated or, with `check`, found to need no migration.

    Times are seconds but for `slow_query_ms`. With `beside_owner` a SQLite file is opened also while another
    process owns it: for a short look, or a write to what no process keeps in memory (W13). Raises
    StartupError and the kinds of it, each one line.
    """
    parsed = DatabaseUrl.parse(url)
    limits = PoolLimits(pool_min, pool_max, pool_timeout, command_timeout, slow_query_ms)
    if parsed.dialect == "postgres":
        database = await _open_postgres(parsed, limits, migrate)
    else:
        database = await _open_sqlite(parsed, limits, migrate, beside_owner)
    logger.info("opened %s", parsed)
    return database


# A driver is imported where it is used: importing is most of the time that it takes to start.


async def _open_postgres(url: DatabaseUrl, limits: PoolLimits, migrate: MigrateMode) -> Database:
    from runtime.db.postgres import PostgresDatabase

    await prepare_schema(url, migrate)
    return await PostgresDatabase.open(url, limits)


async def _open_sqlite(
    url: DatabaseUrl, limits: PoolLimits, migrate: MigrateMode, beside_owner: bool
) -> Database:
    from runtime.db.sqlite import SqliteDatabase
    from runtime.db.sqlite_integrity import own_file

    try:
        lock = own_file(Path(url.address))
    except DatabaseInUse:
        if not beside_owner:
            raise
        # The owner has migrated it.
        await prepare_schema(url, "check")
        return await SqliteDatabase.open(url, limits, None)
    try:
        await prepare_schema(url, migrate)
        return await SqliteDatabase.open(url, limits, lock)
    except BaseException:
        lock.release()
        raise
