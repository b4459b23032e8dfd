"""The database that a command looks into."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from runtime.config import Settings
from runtime.db.connect import open_database
from runtime.db.database import Database, MigrateMode


@asynccontextmanager
async def opened(
    settings: Settings, *, migrate: MigrateMode = "check", beside_owner: bool = False
) -> AsyncIterator[Database]:
    """The database of the settings, closed at the end. Raises StartupError."""
    database = await open_database(settings.db_url, migrate=migrate, beside_owner=beside_owner)
    try:
        yield database
    finally:
        await database.close()
