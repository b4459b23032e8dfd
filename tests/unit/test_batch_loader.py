"""Look-ups that callers share: each is answered by what stood there after it asked."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from runtime.errors import DatabaseDamaged, DatabaseError, DatabaseUnavailable
from runtime.store.read.batch_loader import AT_ONCE, BatchLoader


class Table:
    """Rows by key. A fetch reads at once, and answers when it is let go."""

    def __init__(self, **rows: int) -> None:
        self.rows = rows
        self.asked: list[list[str]] = []
        self._answers: list[asyncio.Future[None]] = []

    async def fetch(self, keys: str) -> Any:
        names = sorted(msgspec.json.decode(keys))
        self.asked.append(names)
        found = [{"key": name, "value": self.rows[name]} for name in names if name in self.rows]
        self._answers.append(asyncio.get_running_loop().create_future())
        await self._answers[-1]
        return found

    def answer(self, number: int, error: BaseException | None = None) -> None:
        """Let a fetch go on, or fail."""
        if error is None:
            self._answers[number].set_result(None)
        else:
            self._answers[number].set_exception(error)


def lookup_in(table: Table) -> BatchLoader[str]:
    return BatchLoader(table.fetch, lambda row: row["key"])


async def asking(lookup: BatchLoader[str], *keys: str) -> list[asyncio.Task[Any]]:
    """Callers who have asked: what can go to the database has gone."""
    tasks = [asyncio.create_task(lookup.find(key)) for key in keys]
    await settle()
    return tasks


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def values(tasks: Sequence[asyncio.Task[Any]]) -> list[int | None]:
    async with asyncio.timeout(10):
        return [None if (row := await task) is None else row["value"] for task in tasks]


async def test_those_who_ask_at_once_share_a_fetch() -> None:
    table = Table(a=1, b=2)
    callers = await asking(lookup_in(table), "a", "b", "a", "nobody")
    assert table.asked == [["a", "b", "nobody"]]
    table.answer(0)
    assert await values(callers) == [1, 2, 1, None]


async def test_whoever_asks_later_is_answered_by_what_stands_there_then() -> None:
    table = Table(a=1)
    lookup = lookup_in(table)
    before = await asking(lookup, "a")
    table.rows["a"] = 2
    after = await asking(lookup, "a")
    assert len(table.asked) == 2
    table.answer(1)
    # Nobody waits for the answer to an earlier question either.
    assert await values(after) == [2]
    table.answer(0)
    assert await values(before) == [1]


async def test_a_waiting_lookup_shares_the_next_query_and_sees_changes() -> None:
    table = Table(a=0)
    lookup = lookup_in(table)
    first = [task for _ in range(AT_ONCE) for task in await asking(lookup, "a")]
    late = await asking(lookup, "a", "b")
    table.rows["a"] = 1
    later = await asking(lookup, "a")
    assert len(table.asked) == AT_ONCE
    table.rows["b"] = 5
    table.answer(0)
    await settle()
    assert table.asked[AT_ONCE:] == [["a", "b"]]
    # What changes behind the question is for those who ask behind it.
    table.rows["a"] = 2
    last = await asking(lookup, "a")
    assert len(table.asked) == AT_ONCE + 1
    table.answer(1)
    await settle()
    for number in range(2, AT_ONCE + 2):
        table.answer(number)
    assert await values([*first, *late, *later, *last]) == [0] * AT_ONCE + [1, 5, 1, 2]


async def test_each_caller_of_a_fetch_that_fails_gets_an_error_of_its_own() -> None:
    table = Table(a=1)
    lookup = lookup_in(table)
    callers = await asking(lookup, "a", "a", "b")
    cause = OSError("gone")
    error = DatabaseUnavailable("the line is cut")
    error.__cause__ = cause
    table.answer(0, error)
    errors = await asyncio.gather(*callers, return_exceptions=True)
    assert {(type(each), str(each)) for each in errors} == {(DatabaseUnavailable, "the line is cut")}
    assert len({id(each) for each in errors} | {id(error)}) == 4
    assert all(isinstance(each, DatabaseUnavailable) and each.__cause__ is cause for each in errors)
    # The next question is asked anew.
    again = await asking(lookup, "a")
    table.answer(1)
    assert await values(again) == [1]


@pytest.mark.parametrize("kind", [DatabaseError, DatabaseDamaged])
async def test_whatever_a_fetch_fails_with_reaches_its_callers_and_no_other(
    kind: type[DatabaseError],
) -> None:
    table = Table(a=1)
    lookup = lookup_in(table)
    failing, well = await asking(lookup, "a", "b"), await asking(lookup, "a")
    table.answer(0, kind("no"))
    table.answer(1)
    assert [type(each) for each in await asyncio.gather(*failing, return_exceptions=True)] == [kind, kind]
    assert await values(well) == [1]


async def test_fetches_that_fail_make_room_for_the_next() -> None:
    table = Table(a=1)
    lookup = lookup_in(table)
    for number in range(3 * AT_ONCE):
        callers = await asking(lookup, "a")
        table.answer(number, DatabaseUnavailable("no"))
        await asyncio.gather(*callers, return_exceptions=True)
    callers = await asking(lookup, "a")
    table.answer(-1)
    assert await values(callers) == [1]


@pytest.mark.parametrize("under_way", [0, AT_ONCE], ids=["asked", "waiting"])
async def test_a_caller_who_goes_away_disturbs_nobody(under_way: int) -> None:
    table = Table(a=1, b=2)
    lookup = lookup_in(table)
    before = [task for _ in range(under_way) for task in await asking(lookup, "a")]
    gone, *others = await asking(lookup, "a", "a", "b")
    gone.cancel()
    await asyncio.wait([gone])
    assert gone.cancelled()
    for number in range(under_way + 1):
        table.answer(number)
        await settle()
    assert await values([*before, *others]) == [1] * under_way + [1, 2]


async def test_a_failure_without_callers_is_dropped() -> None:
    table = Table(a=1)
    lookup = lookup_in(table)
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    [gone] = await asking(lookup, "a")
    gone.cancel()
    await asyncio.wait([gone])
    table.answer(0, DatabaseUnavailable("no"))
    [caller] = await asking(lookup, "a")
    table.answer(1)
    assert await values([caller]) == [1]
    # Of an error that nobody has looked at Python complains when its task is let go.
    del gone
    gc.collect()
    assert complaints == []
