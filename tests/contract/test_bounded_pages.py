"""R6: pages are bounded in bytes as well as in rows, and give everything once and in order all the same."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from itertools import count
from typing import Any, get_args

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from runtime.metrics import Metrics
from runtime.models import MessagePage, Role
from runtime.store.cache import Cache
from runtime.store.read.message_pages import MessagePages, MessagesCut
from runtime.store.records import Head, SessionKey
from runtime.store.store import Store, open_store
from runtime.store.write.turn_commands import Ending
from tests.support.database_locks import execute, sqlite_path
from tests.support.running_turns import Clock, ask, follow_all, note, told

pytestmark = [pytest.mark.usefixtures("uncounted"), pytest.mark.slow]

ROLES: tuple[Role, ...] = get_args(Role)
NUMBERS = count()
BOUND = 20_000

# A role, and how often a letter of one, two or three bytes stands in the content.
MESSAGES = st.lists(
    st.tuples(st.sampled_from(ROLES), st.sampled_from("aé€"), st.integers(0, 600)), min_size=1, max_size=25
)
Message = tuple[Role, str, int]
Walk = Callable[[MessagePages, Head, int, int, Role | None, int], Awaitable[MessagePage]]


async def forward(
    pages: MessagePages, head: Head, place: int, limit: int, role: Role | None, size: int
) -> MessagePage:
    return await pages.after(head, place, limit, role, size)


async def backward(
    pages: MessagePages, head: Head, place: int, limit: int, role: Role | None, size: int
) -> MessagePage:
    return await pages.before(head, place, limit, role, size)


async def walk(
    step: Walk, pages: MessagePages, head: Head, limit: int, role: Role | None, max_bytes: int
) -> list[int]:
    """The numbers on all pages, each of which is as it must be; in the order of their messages."""
    found: list[int] = []
    place = 0 if step is forward else head.last_seq + 1
    while True:
        page = await step(pages, head, place, limit, role, max_bytes)
        size = sum(len(bytes(raw)) for raw in page.encoded)
        # Beside its texts a message has its number, role and time here.
        assert len(page.seqs) == 1 or size <= max_bytes + 200 * len(page.seqs)
        assert len(page.seqs) <= limit
        found = [*found, *page.seqs] if step is forward else [*page.seqs, *found]
        if not page.more:
            return found
        assert page.seqs, "a page leads on"
        place = page.seqs[-1] if step is forward else page.seqs[0]


@settings(max_examples=settings().max_examples // 2, suppress_health_check=list(HealthCheck))
@given(
    messages=MESSAGES,
    cut=st.tuples(st.integers(0, 25), st.integers(0, 25)),
    limit=st.integers(1, 30),
    max_bytes=st.integers(1, 5000),
    role=st.sampled_from([None, *ROLES]),
    step=st.sampled_from([forward, backward]),
)
async def test_pages_of_any_bound_give_every_message_once(
    store: Store,
    database_url: str,
    messages: list[Message],
    cut: tuple[int, int],
    limit: int,
    max_bytes: int,
    role: Role | None,
    step: Walk,
) -> None:
    name = f"s{next(NUMBERS)}"
    said = [{"role": each, "content": letter * times} for each, letter, times in messages]
    await store.create_session(name, messages=said)
    head = await store._core.reader.get_head(SessionKey("", name))
    expected = [seq for seq, (each, _, _) in enumerate(messages, 1) if role in (None, each)]
    assert await walk(step, store._core.reader._pages, head, limit, role, max_bytes) == expected
    # Some of them cut away, and still to be erased; nothing in memory.
    after, through = min(cut), min(max(cut), head.last_seq)
    await mark_as_cut(database_url, head.id, after, through)
    pages = MessagePages(store._core.database, Cache(0), Metrics())
    expected = [seq for seq in expected if not after < seq <= through]
    for known in (head, structs.replace(head, cut_after=after, cut_through=through)):
        assert await walk(step, pages, known, limit, role, max_bytes) == expected


async def mark_as_cut(url: str, id: int, after: int, through: int) -> None:
    statement = f"UPDATE sessions SET cut_after = {after}, cut_through = {through} WHERE id = {id};"
    await execute(url, statement, statement)


async def test_pages_of_a_rare_role_are_found_far_away(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.store.read.message_pages.ROLE_WINDOW", 7)
    rare = {3, 40, 41, 99}
    roles = ["tool" if seq in rare else "user" for seq in range(1, 101)]
    await store.create_session("s", messages=[{"role": role, "content": "x"} for role in roles])
    assert (await store.list_messages("s", last=2, role="tool")).seqs == [41, 99]
    page = await store.list_messages("s", last=4, role="tool")
    assert (page.seqs, page.more) == ([3, 40, 41, 99], False)
    page = await store.list_messages("s", after=3, limit=2, role="tool")
    assert (page.seqs, page.more) == ([40, 41], True)
    assert (await store.list_messages("s", last=1, role="system")).seqs == []


async def test_messages_from_before_the_sizes_are_measured(postgres_url: str) -> None:
    async with open_store(postgres_url) as store:
        said = [{"role": "user", "content": "é" * 4000, "name": "n", "more": [1]} for _ in range(5)]
        await store.create_session("s", messages=said)
        await execute(postgres_url, "", "UPDATE messages SET size = NULL; UPDATE sessions SET size = NULL")
        head = await store._core.reader.get_head(SessionKey("", "s"))
        pages = MessagePages(store._core.database, Cache(0), Metrics())
        assert (await pages.after(head, 0, 10, None, 17_000)).seqs == [1, 2]
        assert (await store.list_sessions()).sessions[0].session_id == "s"


# What is written with each row, and what the database takes it for.
TEXTS = {
    "messages": ("content", "name", "tool_call_id", "tool_calls", "metadata", "extra"),
    "sessions": ("title", "description", "metadata", "first_user_text"),
    "agent_switches": ("reason", "metadata"),
    "pending_approvals": ("tool_name", "arguments", "reason", "modified_arguments", "feedback"),
}


async def test_the_size_of_every_row_is_the_bytes_of_its_texts(store: Store, database_url: str) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "é", "arguments": "{}"}}
    said = [
        {"role": "user", "content": "Größe €", "name": "Ö", "metadata": {"ä": 1}, "other": "ü"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "plain", "tool_call_id": "a"},
    ]
    await store.create_session("s", messages=said, title="Tür", metadata={"k": "€"})
    await store.create_session("large", metadata={"k": "x" * 100_000})
    await store.update_session("s", description="größer", metadata={"k": "€€"})
    await store.update_session("large", title="€")
    await store.switch_agent("s", "coder", reason="darum, weil’s so ist", metadata={"ß": "ß"})
    await store.create_approval("s", "a", "lösche", {"ä": "ö"}, reason="ü")
    await store.create_approval("s", "b", "lies", {})
    await store.decide_approval("s", "a", "edit", modified_arguments={"ä": "öö"}, feedback="nein: „so“")
    for table, columns in TEXTS.items():
        for written, measured in await sizes(database_url, table, columns):
            assert written == measured > 0, table


async def sizes(url: str, table: str, columns: Sequence[str]) -> list[tuple[int, int]]:
    if url.startswith("sqlite"):
        bytes_of = " + ".join(f"coalesce(length(CAST({name} AS BLOB)), 0)" for name in columns)
        with closing(sqlite3.connect(sqlite_path(url))) as connection:
            return connection.execute(f"SELECT size, {bytes_of} FROM {table}").fetchall()
    bytes_of = " + ".join(f"coalesce(octet_length({name}::text), 0)" for name in columns)
    connection = await asyncpg.connect(url)
    rows = await connection.fetch(f"SELECT size, {bytes_of} FROM {table}")
    await connection.close()
    return [tuple(row) for row in rows]


@pytest.fixture
def small(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store whose pages have 20,000 bytes at most, and chunks as many."""
    for place in (
        "reader.PAGE_BYTES",
        "reader.CHUNK_BYTES",
        "session_lists.PAGE_BYTES",
        "message_pages.CHUNK_BYTES",
        "turn_reader.CHUNK_BYTES",
    ):
        monkeypatch.setattr(f"runtime.store.read.{place}", BOUND)
    return store


# Of several sizes: three fit on a page, two do, and one is larger than any page.
LENGTHS = [6000, 6000, 6000, 6000, 9500, 9500, 50_000, 10, 10, 19_000, 30_000, 6000]


async def pages_of(
    read: Callable[[Any], Awaitable[tuple[list[Any], Any]]], size: Callable[[Any], int]
) -> list[Any]:
    """The items of all pages, each within the bound or of one item."""
    found, place = [], None
    while True:
        items, place = await read(place)
        assert items
        assert len(items) == 1 or sum(map(size, items)) <= BOUND + 300 * len(items)
        found += items
        if place is None:
            return found


@pytest.mark.parametrize("deleted", [False, True])
async def test_sessions(small: Store, deleted: bool) -> None:
    for number, length in enumerate(LENGTHS):
        await small.create_session(f"s{number}", metadata={"k": "x" * length})
        if number % 3 == 0:
            await small.delete_session(f"s{number}")

    async def read(cursor: str | None) -> tuple[list[Any], str | None]:
        page = await small.list_sessions(limit=8, cursor=cursor, include_deleted=deleted)
        return page.sessions, page.next_cursor

    found = await pages_of(read, lambda session: len(bytes(session.encoded_metadata)))
    expected = [f"s{n}" for n in range(len(LENGTHS)) if deleted or n % 3]
    # A deletion is no activity.
    assert sorted(session.session_id for session in found) == sorted(expected)


async def test_switches(small: Store) -> None:
    await small.create_session("s")
    for number, length in enumerate(LENGTHS):
        await small.switch_agent("s", f"agent {number}", metadata={"k": "x" * length})

    async def read(before: int | None) -> tuple[list[Any], int | None]:
        page = await small.list_switches("s", limit=8, before=before)
        return page.switches, page.next_before

    found = await pages_of(read, lambda switch: len(bytes(switch.encoded_metadata)))
    assert [switch.id for switch in found] == list(range(len(LENGTHS), 0, -1))
    # The latest that have room together.
    assert [switch.id for switch in await small.list_agent_history("s")] == [12]


@pytest.mark.parametrize("status", [None, "pending", "approved", "expired"])
async def test_approvals(small: Store, clock: Clock, status: Any) -> None:
    await small.create_session("s")
    stored: dict[str, list[str]] = {"pending": [], "approved": [], "expired": []}
    for number, length in enumerate(LENGTHS * 2):
        kind = list(stored)[number % 3]
        # Not in the order of their names.
        call_id = f"call {number * 7 % 24}"
        seconds = 1.0 if kind == "expired" else None if number % 2 else 1000.0
        await small.create_approval("s", call_id, "tool", "x" * length, expires_in=seconds)
        if kind == "approved":
            await small.decide_approval("s", call_id, "approve")
        stored[kind].append(call_id)
    clock.pass_seconds(10)

    async def read(after: str | None) -> tuple[list[Any], str | None]:
        page = await small.list_approvals("s", status=status, after=after, limit=5)
        return page.approvals, page.next_after

    found = await pages_of(read, lambda approval: len(bytes(approval.encoded_arguments)))
    if status is None:
        assert len(found) == len({approval.call_id for approval in found}) == len(LENGTHS) * 2
    else:
        assert sorted(approval.call_id for approval in found) == sorted(stored[status])
        assert {approval.status for approval in found} == {status}
    assert [a.created_at for a in found] == sorted(a.created_at for a in found)


async def test_events_of_a_turn(small: Store) -> None:
    running = await ask(small)
    for length in LENGTHS:
        await running.advance("é" * length, events=(note("x" * length),))
    await running.advance(ending=Ending("completed"))
    whole = told(await follow_all(small, running.id))
    assert [len(data) for id, data in whole if "note" in data] == [length + 19 for length in LENGTHS]
    assert sum("-" in id for id, _ in whole) == sum(LENGTHS)


async def chunks_of(reading: Any) -> list[int]:
    return [seq async for chunk in reading.chunks for seq, _ in chunk.messages]


async def test_a_history_is_read_in_chunks(small: Store) -> None:
    said = [{"role": "user", "content": "x" * length} for length in LENGTHS]
    await small.create_session("s", messages=said)
    reading = await small.read_history("s")
    chunks = [chunk async for chunk in reading.chunks]
    assert [len(chunk.messages) for chunk in chunks] == [3, 2, 1, 1, 3, 1, 1]
    assert [chunk.more for chunk in chunks] == [True] * 6 + [False]
    history = await small.get_history("s")
    assert [message["content"] for message in history.messages] == [part["content"] for part in said]


async def test_what_comes_while_a_history_is_read_is_not_in_it(small: Store) -> None:
    said = [{"role": "user", "content": "x" * length} for length in LENGTHS]
    await small.create_session("s", messages=said)
    reading = await small.read_history("s")
    assert (await anext(reading.chunks)).more
    await small.append_messages("s", said)
    assert await chunks_of(reading) == list(range(4, 13))


@pytest.mark.parametrize("how", ["truncate", "replace", "erase"])
@pytest.mark.parametrize("kind", ["history", "page"])
async def test_a_cut_while_messages_are_read_is_no_mixture(small: Store, kind: str, how: str) -> None:
    said = [{"role": "user", "content": "x" * length} for length in LENGTHS]
    await small.create_session("s", messages=said)
    if kind == "history":
        chunks = (await small.read_history("s")).chunks
    else:
        chunks = (await small.read_numbered_page("s", page=1, page_size=20)).chunks
    assert (await anext(chunks)).more
    if how == "truncate":
        await small.truncate_messages("s", after=11)
    elif how == "replace":
        await small.replace_messages("s", [*said[:11], said[4]])
    else:
        await small.delete_session("s", hard=True)
    with pytest.raises(MessagesCut):
        async for _ in chunks:
            pass
