"""A head is written only from the version that it was planned from, on SQLite and on Postgres."""

from __future__ import annotations

from datetime import timedelta

import pytest

from runtime.db.database import Database, Row
from runtime.errors import DatabaseConflict
from tests.support.database_rows import NOON, insert_session, message_row

LATER = NOON + timedelta(hours=1)
SESSIONS = (1, 2, 3)


def head_row(number: int, base_version: int, *, text: str | None = '"a title"') -> list[object]:
    """The parameters of update_head: a message more, which says what the session is called."""
    return [number, base_version, base_version + 1, 1, 1, 7, LATER, 0, 0, 1, text]


@pytest.fixture
async def filled(database: Database) -> Database:
    """Three sessions, each at version 1."""
    async with database.transaction() as transaction:
        for number in SESSIONS:
            await insert_session(transaction, number)
    return database


async def write(database: Database, *heads: list[object]) -> None:
    """Heads, and before them a message, as a batch writes them."""
    async with database.transaction() as transaction:
        await transaction.execute_many("insert_message", [message_row(1, 1)])
        await transaction.execute_many("update_head", heads)


async def heads_in(database: Database) -> list[Row]:
    return [(await database.fetch("list_heads", f'[["", "s{number}"]]'))[0] for number in SESSIONS]


async def test_heads_at_their_base_version_are_written(filled: Database) -> None:
    await write(filled, *(head_row(number, 1) for number in SESSIONS))
    for row in await heads_in(filled):
        assert (row["version"], row["last_seq"], row["message_count"]) == (2, 1, 1)
        assert (row["token_total"], row["last_activity"], row["first_user_seq"]) == (7, LATER, 1)


STALE = {
    "behind": head_row(2, 0),
    "ahead": head_row(2, 2),
    "gone": head_row(404, 1),
}


@pytest.mark.parametrize("row", STALE.values(), ids=STALE)
@pytest.mark.parametrize("place", range(3))
async def test_one_head_that_has_moved_on_is_a_conflict_and_nothing_is_stored(
    filled: Database, row: list[object], place: int
) -> None:
    rows = [head_row(1, 1), head_row(3, 1)]
    rows.insert(place, row)
    with pytest.raises(DatabaseConflict):
        await write(filled, *rows)
    assert [head["version"] for head in await heads_in(filled)] == [1, 1, 1]
    assert await filled.fetch("list_messages_after", 1, 0, 10) == []
    # The next transaction finds nothing of it in its way.
    await write(filled, head_row(1, 1))
    assert [head["version"] for head in await heads_in(filled)] == [2, 1, 1]


async def test_a_title_stays_while_the_message_is_the_same_that_it_comes_from(filled: Database) -> None:
    await write(filled, head_row(1, 1), head_row(2, 1))
    async with filled.transaction() as transaction:
        other = [2, 2, 3, 1, 1, 7, LATER, 0, 0, None, None]
        await transaction.execute_many("update_head", [head_row(1, 2, text=None), other])
        for number in SESSIONS:
            context = [number, "ask", NOON, NOON, 0, "{}"]
            await transaction.execute_many("insert_agent_context", [context])
    titles = [(await filled.fetch("find_session", "", f"s{n}"))[0]["first_user_text"] for n in SESSIONS]
    assert titles == ['"a title"', None, None]
