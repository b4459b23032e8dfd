"""An export shows one moment, and does not keep the database from anything for its reader's sake."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, aclosing

import pytest

from runtime.db.database import MAX_SNAPSHOTS, Database
from runtime.errors import DatabaseUnavailable, SessionNotFound
from runtime.models import utc_now
from runtime.store import exports, spool
from runtime.store.read import export_reader
from runtime.store.read.export_reader import ExportScope, read_export
from runtime.store.store import Store

ALL = ExportScope()


@pytest.fixture
async def filled(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store whose sessions are exported in many pieces."""
    monkeypatch.setattr(export_reader, "CHUNK_BYTES", 100)
    monkeypatch.setattr(export_reader, "PAGE_ROWS", 3)
    monkeypatch.setattr(spool, "PIECE", 50)
    for owner in ("", "ann"):
        for n in range(5):
            messages = [{"role": "user", "content": f"word {n}"}] * 10
            await store.create_session(f"s{n}", messages=messages, owner=owner)
    return store


def database_of(store: Store) -> Database:
    return store._core.database


async def lines(store: Store, **scope: str) -> list[bytes]:
    return [line async for line in store.export(**scope)][1:]


async def test_what_is_written_beside_it_is_not_in_it(filled: Store) -> None:
    before = await lines(filled)
    async with aclosing(read_export(database_of(filled), ALL, utc_now())) as pieces:
        text = await anext(pieces)
        await filled.append_messages("s0", [{"role": "user", "content": "late"}])
        await filled.truncate_messages("s4", after=1, owner="ann")
        await filled.delete_session("s3", owner="ann", hard=True)
        await filled.update_session("s2", title="late", owner="ann")
        await filled.create_session("zz", owner="ann")
        async for piece in pieces:
            text += piece
    assert text.splitlines(keepends=True)[1:] == before
    assert await lines(filled) != before


async def test_buffered_writes_are_in_it(filled: Store) -> None:
    await filled.append_messages("s0", [{"role": "user", "content": "soon"}], durability="buffered")
    assert any(b"soon" in line for line in await lines(filled, session_id="s0"))


async def test_readers_that_stall_keep_no_snapshot(filled: Store) -> None:
    """More of them than there are snapshots at a time; each goes on from where it was."""
    whole = await lines(filled)
    async with AsyncExitStack() as stack:
        stalled = []
        for _ in range(2 * MAX_SNAPSHOTS):
            pieces = await stack.enter_async_context(aclosing(filled.exports.pieces(ALL)))
            stalled.append((pieces, await anext(pieces)))
        assert await lines(filled) == whole
        for pieces, text in stalled:
            rest = b"".join([piece async for piece in pieces])
            assert (text + rest).splitlines(keepends=True)[1:] == whole


async def test_no_more_snapshots_than_a_few_are_open_at_a_time(filled: Store) -> None:
    database = database_of(filled)
    async with AsyncExitStack() as stack:
        for _ in range(MAX_SNAPSHOTS):
            await stack.enter_async_context(database.snapshot())
        waiting = asyncio.create_task(lines(filled, session_id="s0"))
        # Other reads and writes wait for none of them.
        await filled.append_messages("s1", [{"role": "user", "content": "meanwhile"}])
        assert (await filled.get_session("s1")).message_count == 11
        assert not waiting.done()
    assert len(await waiting) == 12


async def test_a_snapshot_that_takes_too_long_is_broken_off(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "SNAPSHOT_SECONDS", 0.0)
    with pytest.raises(DatabaseUnavailable, match="could not be read within"):
        await lines(filled)
    monkeypatch.undo()
    assert await lines(filled)


async def test_a_reader_that_goes_away_leaves_nothing_open(filled: Store) -> None:
    for _ in range(2 * MAX_SNAPSHOTS):
        async with aclosing(filled.exports.pieces(ALL)) as pieces:
            await anext(pieces)
    assert await lines(filled)


async def test_a_missing_session_is_an_error_at_the_first_line(filled: Store) -> None:
    with pytest.raises(SessionNotFound):
        await anext(filled.export(session_id="s0", owner="bob"))


async def test_the_log_of_sqlite_is_cut_back_after_an_export(filled: Store) -> None:
    database = database_of(filled)
    if database.dialect == "sqlite":
        async with aclosing(read_export(database, ALL, utc_now())) as pieces:
            await anext(pieces)
        await database._checkpoint("TRUNCATE")  # type: ignore[attr-defined]
        assert database.wal_bytes() == 0
