"""Imports on both databases: sessions arrive as they were elsewhere, and once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import structs

from runtime.config import Settings
from runtime.errors import RequestError, SessionNotFound
from runtime.store.messages import NewMessage, new_message
from runtime.store.records import ApprovalRow, ImportMark, SessionKey, SwitchRow
from runtime.store.store import Store, open_store
from runtime.store.write.commands import ImportMessages, ImportSession, NumberedMessage
from runtime.store.write.outcomes import Imported

KEY = SessionKey("", "чат-7")
THEN = datetime(2026, 1, 5, 9, 0, 0, 123456, tzinfo=UTC)
SOURCE = "sqlite:////old.db"


def later(minutes: int) -> datetime:
    return THEN + timedelta(minutes=minutes)


def message(minute: int, **fields: Any) -> NewMessage:
    return new_message({"role": "user", "content": f"word {minute}", "timestamp": later(minute), **fields})


def session(key: SessionKey = KEY, **fields: Any) -> ImportSession:
    given: dict[str, Any] = {
        "created_at": THEN,
        "last_activity": later(90),
        "context_created_at": later(1),
        "context_updated_at": later(8),
        **fields,
    }
    return ImportSession(key, SOURCE, **given)


WHOLE = session(
    title='"Поездка ✈️"',
    description='"Two\\u0000bags"',
    agent="coder",
    switch_count=1,
    context_metadata='{"big":123456789012345678901234567890}',
    switches=(
        SwitchRow(1, "", "orchestrator", later(1), '"Initial agent"', "{}"),
        SwitchRow(2, "orchestrator", "coder", later(2), None, '{"confidence":"high"}'),
    ),
    approvals=(
        ApprovalRow("a", '"write"', '{"p":1.50}', None, "pending", later(3), None, None, None, None),
        ApprovalRow("b", '"write"', "{}", '"why"', "rejected", later(3), None, later(4), None, '"no"'),
    ),
    messages=(
        message(1),
        message(2, role="assistant", content=None, tool_calls=[{"id": "c"}], token_count=7),
        message(3, role="tool", name="look", tool_call_id="c", metadata={"n": 1}),
    ),
)


async def imported(store: Store, *commands: ImportSession | ImportMessages) -> list[Imported]:
    results = await store.imports.store(commands)
    assert all(isinstance(result, Imported) for result in results), results
    return [result for result in results if isinstance(result, Imported)]


async def test_what_was_imported_is_seen_as_it_was(store: Store) -> None:
    await imported(store, WHOLE)
    seen = await store.get_session(KEY.session_id)
    assert (seen.title, seen.description) == ("Поездка ✈️", "Two\0bags")
    assert (seen.created_at, seen.last_activity, seen.current_agent) == (THEN, later(90), "coder")
    assert [(each.from_agent, each.to_agent) for each in await store.list_agent_history("чат-7")] == [
        (None, "orchestrator"),
        ("orchestrator", "coder"),
    ]
    assert (await store.get_context("чат-7")).switch_count == 1
    page = await store.list_messages("чат-7")
    assert [each["timestamp"] for each in page.messages] == [
        f"2026-01-05T09:0{minute}:00.123456Z" for minute in (1, 2, 3)
    ]
    approvals = (await store.list_approvals("чат-7")).approvals
    assert [(each.status, each.decided_at, each.feedback) for each in approvals] == [
        ("pending", None, None),
        ("rejected", later(4), "no"),
    ]


async def test_a_session_that_keeps_its_version_is_hidden_until_it_is_whole(store: Store) -> None:
    numbered = [NumberedMessage(**structs.asdict(message(n)), seq=3 * n) for n in (1, 2, 3)]
    first = structs.replace(
        WHOLE, messages=(numbered[0],), is_whole=False, version=2, last_seq=20, deleted_at=None
    )
    rest = ImportMessages(KEY, SOURCE, 3, tuple(numbered[1:]), is_whole=True, version=2, last_seq=20)
    await imported(store, first)
    with pytest.raises(SessionNotFound):
        await store.get_session(KEY.session_id)
    # Repeated, as after an interruption.
    await imported(store, first, rest)
    seen = await store.get_session(KEY.session_id)
    assert (seen.version, seen.last_seq, seen.message_count, seen.title) == (2, 20, 3, "Поездка ✈️")
    page = await store.list_messages(KEY.session_id)
    assert [each["seq"] for each in page.messages] == [3, 6, 9]
    found = (await store.imports.find([KEY]))[KEY]
    assert (found.mark.whole_version, found.command.deleted_at) == (2, None)


async def test_what_is_stored_reads_back_as_the_command_that_made_it(store: Store) -> None:
    await imported(store, WHOLE)
    found = (await store.imports.find([KEY, SessionKey("", "unknown")]))[KEY]
    assert found.mark == ImportMark(SOURCE, 1)
    assert found.command == structs.replace(WHOLE, messages=(), version=1, last_seq=3)
    rows = [row async for row in store.imports.read_messages(found.head)]
    assert await store.imports.list_messages([found.head]) == {found.head.id: rows}
    assert [(row.content, row.tool_calls, row.metadata, row.token_count) for row in rows] == [
        (each.content, each.tool_calls, each.metadata, each.token_count) for each in WHOLE.messages
    ]


async def test_a_long_session_in_one_load_arrives_in_order_and_once(store: Store) -> None:
    begun = structs.replace(WHOLE, is_whole=False)
    middle = ImportMessages(KEY, SOURCE, 3, (message(4), message(5)), False)
    end = ImportMessages(KEY, SOURCE, 5, (message(6),), True)
    for _ in range(2):
        await imported(store, begun, middle, end)
        page = await store.list_messages("чат-7")
        assert page.seqs == [1, 2, 3, 4, 5, 6]
    seen = await store.get_session("чат-7")
    assert (seen.version, seen.last_activity) == (3, later(90))


async def test_a_deleted_session_is_found_and_can_be_restored(store: Store) -> None:
    await imported(store, structs.replace(WHOLE, deleted_at=later(99)))
    with pytest.raises(SessionNotFound):
        await store.get_session("чат-7")
    found = (await store.imports.find([KEY]))[KEY]
    assert found.command.deleted_at == later(99)
    assert len([row async for row in store.imports.read_messages(found.head)]) == 3
    assert (await store.restore_session("чат-7")).session.is_active
    assert len((await store.list_messages("чат-7")).messages) == 3


async def test_an_imported_session_goes_on(store: Store) -> None:
    await imported(store, WHOLE)
    switched = await store.switch_agent("чат-7", "debug")
    assert (switched.from_agent, switched.switch_count) == ("coder", 2)
    await store.append_messages("чат-7", [{"role": "user", "content": "next"}])
    assert [each.id for each in await store.list_agent_history("чат-7")] == [1, 2, 3]
    assert (await store.list_messages("чат-7", last=1)).seqs == [4]
    found = (await store.imports.find([KEY]))[KEY]
    assert found.mark.whole_version != found.head.version


async def test_sessions_of_another_origin_are_counted_and_kept(store: Store) -> None:
    assert await store.imports.count_others(SOURCE) == 0
    await imported(store, WHOLE)
    assert await store.imports.count_others(SOURCE) == 0
    assert await store.imports.count_others("sqlite:////another.db") == 1
    await store.create_session("ours", messages=[{"role": "user", "content": "hi"}])
    assert await store.imports.count_others(SOURCE) == 1
    [kept] = await imported(store, session(SessionKey("", "ours"), messages=(message(1),)))
    assert kept.mark is None
    assert [each["content"] for each in (await store.list_messages("ours")).messages] == ["hi"]


async def test_a_session_that_cannot_be_stored_fails_alone(store: Store) -> None:
    gap = ImportMessages(SessionKey("", "unknown"), SOURCE, 3, (message(4),), True)
    refused, stored = await store.imports.store([gap, WHOLE])
    assert isinstance(refused, RequestError)
    assert isinstance(stored, Imported)


async def test_a_load_that_the_queue_has_no_room_for_is_stored_in_the_end(database_url: str) -> None:
    """Its part that fits is stored, and the whole of it is asked for again."""
    settings = Settings(max_pending_bytes=4096)
    keys = [SessionKey("", f"s{n}") for n in range(20)]
    async with open_store(database_url, settings) as store:
        await imported(store, *(session(key, messages=(message(1),)) for key in keys))
        assert len(await store.imports.find(keys)) == 20
        assert (await store.list_sessions(count=True)).total == 20
