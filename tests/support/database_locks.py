"""What stands in the way of a writer, on a real database: a lock, a trigger."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

POISON = "poison"


def sqlite_path(url: str) -> str:
    return url.removeprefix("sqlite:///")


@asynccontextmanager
async def blocked(url: str) -> AsyncIterator[None]:
    """While this is open nobody can commit a write; reading goes on."""
    if url.startswith("sqlite"):
        other = sqlite3.connect(sqlite_path(url), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.close()
    else:
        connection = await asyncpg.connect(url)
        await connection.execute("BEGIN; LOCK TABLE writers IN ACCESS EXCLUSIVE MODE")
        try:
            yield
        finally:
            await connection.close()


async def execute(url: str, sqlite: str, postgres: str) -> None:
    """Run SQL of a test's own."""
    if url.startswith("sqlite"):
        with sqlite3.connect(sqlite_path(url)) as connection:
            connection.executescript(sqlite)
        connection.close()
    else:
        other = await asyncpg.connect(url)
        await other.execute(postgres)
        await other.close()


async def poison(url: str) -> None:
    """From now on the database refuses any message whose content holds the word."""
    await execute(
        url,
        f"""CREATE TRIGGER refuse BEFORE INSERT ON messages WHEN new.content LIKE '%{POISON}%'
            BEGIN SELECT RAISE(ABORT, 'poisoned'); END;""",
        f"""CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF new.content::text LIKE '%{POISON}%' THEN
                    RAISE EXCEPTION 'poisoned' USING ERRCODE = 'check_violation';
                END IF;
                RETURN new;
            END $$;
            CREATE TRIGGER refuse BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION refuse();""",
    )


async def slow_to_insert(sqlite_url: str) -> None:
    """From now on it takes hours to insert a message whose content holds the word "slow"."""
    await execute(
        sqlite_url,
        """CREATE TRIGGER slow BEFORE INSERT ON messages WHEN new.content LIKE '%slow%'
           BEGIN SELECT count(*) FROM (WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n
                                       LIMIT 100000000000) SELECT i FROM n); END;""",
        "",
    )
