"""What stands in the way of a writer, on a real database: a lock, a trigger, a broken line."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

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


class Line:
    """A line to Postgres on loopback that can be broken at COMMIT.

    `fault` says what happens to the next COMMIT: "lose the reply" lets it through and then breaks the line,
    "lose the request" breaks the line before it.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432"
        self._database = parts.path
        self.fault: str | None = None
        self.faults = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Line:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        return f"postgresql://postgres@127.0.0.1:{port}{self._database}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        upstream_reader, upstream = await asyncio.open_unix_connection(self._socket)
        back = asyncio.create_task(self._copy(upstream_reader, writer))
        try:
            while data := await reader.read(65536):
                if self.fault is not None and b"COMMIT" in data:
                    await self._break(upstream_reader, upstream, data, back)
                    break
                upstream.write(data)
                await upstream.drain()
        except ConnectionError:
            pass
        finally:
            back.cancel()
            for stream in (upstream, writer):
                stream.close()
            self._tasks.discard(task)

    async def _break(
        self, reader: asyncio.StreamReader, upstream: Any, data: bytes, back: asyncio.Task[None]
    ) -> None:
        fault, self.fault = self.fault, None
        self.faults += 1
        back.cancel()
        await asyncio.gather(back, return_exceptions=True)
        if fault == "lose the reply":
            upstream.write(data)
            await reader.read(1)  # the server has answered: the transaction is in

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
