"""Messages written many at a time: Postgres takes few by INSERT and more by COPY, and both are the same."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from itertools import cycle, islice
from typing import Any

import pytest

from runtime.db.database import Database, Dialect
from runtime.db.postgres import LEAST_COPIED
from runtime.db.queries import load_queries
from runtime.errors import DatabaseConflict, DataRefused, RefusedByDatabase
from runtime.store.store import open_store
from runtime.store.write.outcomes import Appended
from tests.support.database_locks import POISON, poison
from tests.support.database_rows import FAR, NOON, insert_session, message_row

pytestmark = pytest.mark.slow

COUNTS = (LEAST_COPIED - 1, LEAST_COPIED, 300)
NAMES = (
    "role",
    "content",
    "timestamp",
    "name",
    "tool_call_id",
    "tool_calls",
    "token_count",
    "metadata",
    "extra",
)
BIG = '{"big": 123456789012345678901234567890, "small": 1e-400, "exact": 0.1000000000000000000001}'
# What a row of a message may hold, behind its number.
ODD: list[tuple[object, ...]] = [
    ("user", '"a NUL \\u0000 in the middle"', NOON, *[None] * 6),
    ("user", '"🙂 \\ud83d\\ude42 ümlaut \u2028 \\\\N \\\\. tab \\t"', NOON, '"\\u0000"', *[None] * 5),
    ("assistant", "null", datetime(1, 1, 2, tzinfo=UTC), None, None, '[{"id": "c"}]', FAR, *[None] * 2),
    ("tool", BIG, datetime(9999, 12, 30, 23, 59, 59, 999999, tzinfo=UTC), '"n"', '"c"', None, 0, "{}", "{}"),
    ("system", '{"b": 1,   "a": 2, "a": 3}', NOON.replace(microsecond=0), *[None] * 3, 2**53 + 1, BIG, BIG),
    ("developer", '""', NOON, None, None, "[]", 1, '{"a":[1,null]}', '{"\\u0000":null}'),
    ("user", '"' + "x" * 100_000 + '"', NOON, *[None] * 6),
]

RAW: list[dict[str, Any]] = [
    {"role": "user", "content": "a NUL \x00, 🙂, ümlaut, \u2028, \\N, \\.\n\t"},
    {"role": "user", "content": None, "name": "\x00", "name2": None},
    {"role": "assistant", "content": [{"type": "text", "text": "🙂"}], "token_count": 2**31 - 1},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "c", "n": 2**63}],
        "metadata": {"n": 2**64 - 1},
    },
    {"role": "tool", "content": "x" * 50_000, "tool_call_id": "c", "name": None, "token_count": 0},
    {"role": "system", "content": "x", "timestamp": "0001-01-02T00:00:00Z", "0.1": 0.1, "nested": [[{}]]},
    {"role": "developer", "content": "x", "timestamp": "9999-12-30T23:59:59.999999Z", "metadata": {}},
]


COPIED = {name: query.copy_into for name, query in load_queries("postgres").items() if query.copy_into}


@pytest.mark.parametrize("name", COPIED)
@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_what_is_copied_is_named_as_its_insert_names_the_columns(dialect: Dialect, name: str) -> None:
    query = load_queries(dialect)[name]
    insert = re.match(r"\s*INSERT INTO (\w+) \(([^()]*)\)\s*VALUES \(([^()]*)\)\s*$", query.sql)
    assert insert is not None
    assert insert[1] == COPIED[name]
    assert re.split(r",\s*", insert[2]) == list(query.parameters)
    assert re.findall(r"\d+", insert[3]) == [str(n + 1) for n in range(len(query.parameters))]


@pytest.mark.parametrize("count", COUNTS)
async def test_rows_come_back_as_they_went_in(database: Database, count: int) -> None:
    rows = [[1, seq, *odd] for seq, odd in enumerate(islice(cycle(ODD), count), 1)]
    await insert(database, [[*row, 7] for row in rows])
    found = await database.fetch("list_messages_after", 1, 0, count + 1)
    assert [[1, row["seq"], *(row[name] for name in NAMES)] for row in found] == rows


@pytest.mark.parametrize("count", COUNTS)
async def test_messages_come_back_as_they_were_sent(database_url: str, count: int) -> None:
    sent = list(islice(cycle(RAW), count))
    async with open_store(database_url) as store:
        await store.create_session("s")
        await store.append_messages("s", sent)
    # Nothing of it is in memory any more.
    async with open_store(database_url) as store:
        found = (await store.list_messages("s", limit=1000)).messages
    assert [message["seq"] for message in found] == list(range(1, count + 1))
    assert [{name: message[name] for name in raw} for raw, message in zip(sent, found, strict=True)] == sent


REFUSED: dict[str, list[object]] = {
    "a missing session": message_row(404, 1),
    "nothing where something must be": [1, 1, None, *message_row(1, 1)[3:]],
    "a number that is taken": message_row(1, 21),
}


@pytest.mark.parametrize("row", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("place", [0, 13, 19])
async def test_one_row_of_twenty_that_does_not_fit_leaves_nothing_of_them(
    database: Database, row: list[object], place: int
) -> None:
    rows = [message_row(1, seq) for seq in range(10, 29)]
    rows.insert(place, row)
    with pytest.raises((DataRefused, DatabaseConflict)):
        await insert(database, rows)
    assert await database.fetch("list_messages_after", 1, 0, 100) == []
    # The connection serves the next as well.
    await insert(database, rows[:place] + rows[place + 1 :])
    assert len(await database.fetch("list_messages_after", 1, 0, 100)) == 19


async def insert(database: Database, rows: list[list[object]]) -> None:
    async with database.transaction() as transaction:
        await insert_session(transaction, 1)
        await transaction.execute_many("insert_message", rows)


@pytest.mark.parametrize("bad", [0, 7, 19])
async def test_w8_a_row_that_the_database_refuses_among_twenty_is_refused_alone(
    database_url: str, bad: int
) -> None:
    await poison(database_url)
    texts = [POISON if n == bad else str(n) for n in range(20)]
    async with open_store(database_url) as store:
        await asyncio.gather(*(store.create_session(f"s{n}") for n in range(4)))
        results = await asyncio.gather(
            *(
                store.append_messages(f"s{n % 4}", [{"role": "user", "content": text}])
                for n, text in enumerate(texts)
            ),
            return_exceptions=True,
        )
        assert [n for n, result in enumerate(results) if isinstance(result, RefusedByDatabase)] == [bad]
        assert sum(isinstance(result, Appended) for result in results) == 19
        for n in range(4):
            messages = (await store.list_messages(f"s{n}")).messages
            assert [message["content"] for message in messages] == [x for x in texts[n::4] if x != POISON]


async def test_w8_an_append_with_one_row_that_is_refused_is_refused_whole(database_url: str) -> None:
    await poison(database_url)
    messages = [{"role": "user", "content": POISON if n == 13 else str(n)} for n in range(20)]
    async with open_store(database_url) as store:
        await store.create_session("s")
        with pytest.raises(RefusedByDatabase):
            await store.append_messages("s", messages)
        assert (await store.get_session("s")).version == 1
        assert (await store.list_messages("s")).seqs == []
