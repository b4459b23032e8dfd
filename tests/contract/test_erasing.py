"""Large deletions and cuts take effect in one step, and their rows are erased in portions behind them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from itertools import pairwise
from typing import Any

import pytest

from runtime.config import Settings
from runtime.db.connect import open_database
from runtime.errors import SessionNotFound
from runtime.metrics import Metrics
from runtime.store.core import Core
from runtime.store.store import Store, open_store
from runtime.store.write import eraser, erasing_loader
from tests.migrations.catalogue import query
from tests.support.database_locks import execute
from tests.support.delayed_database import Delayed
from tests.support.held_eraser import LENGTH, WORDS, count, erased, gone, held, seqs
from tests.support.long_sessions import make_session

pytestmark = pytest.mark.slow


async def count_by_transaction(url: str) -> None:
    """From now on note of every message that is erased the number of the batch before."""
    await execute(
        url,
        """CREATE TABLE noted (batch integer);
           CREATE TRIGGER note AFTER DELETE ON messages
           BEGIN INSERT INTO noted SELECT max(batch) FROM writers; END;""",
        """CREATE TABLE noted (batch bigint);
           CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN INSERT INTO noted SELECT max(batch) FROM writers; RETURN old; END $$;
           CREATE TRIGGER note AFTER DELETE ON messages FOR EACH ROW EXECUTE FUNCTION note();""",
    )


def rows_by_transaction(url: str) -> list[int]:
    return [rows for (rows,) in query(url, "SELECT count(*) FROM noted GROUP BY batch ORDER BY batch")]


async def test_a_large_session_is_gone_at_once_and_its_name_is_free(database_url: str) -> None:
    await make_session(database_url, "s", LENGTH)
    async with held(database_url) as (store, begin):
        deleting = asyncio.create_task(store.delete_session("s", hard=True))
        await gone(store, "s")
        with pytest.raises(SessionNotFound):
            await store.list_messages("s")
        assert (await store.list_sessions(include_deleted=True, count=True)).total == 0
        await store.create_session("s", messages=WORDS)
        assert await seqs(store) == [1, 2]
        assert not deleting.done(), "it is answered when the rows are erased"
        assert count(database_url) == LENGTH + 2
        begin.set()
        assert (await deleting).deleted
        assert (count(database_url), count(database_url, "sessions")) == (2, 1)
        assert await seqs(store) == [1, 2]


async def test_no_transaction_erases_more_than_a_portion(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eraser, "MOST_ROWS", 200)
    await make_session(database_url, "s", LENGTH)
    await make_session(database_url, "t", LENGTH)
    await count_by_transaction(database_url)
    async with open_store(database_url) as store:
        await store.delete_session("s", hard=True)
        await store.truncate_messages("t", after=1)
        await erased(store)
    portions = rows_by_transaction(database_url)
    assert sum(portions) == 2 * LENGTH - 1
    assert max(portions) <= 200


async def test_a_portion_has_fewer_rows_where_they_are_large(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eraser, "MOST_ROWS", 200)
    # Each message has 200 bytes, and counts as four more.
    monkeypatch.setattr(erasing_loader, "BYTES_OF_A_ROW", 50)
    await make_session(database_url, "s", 1_100)
    await count_by_transaction(database_url)
    async with open_store(database_url) as store:
        await store.delete_session("s", hard=True)
    portions = rows_by_transaction(database_url)
    assert sum(portions) == 1_100
    # Postgres goes by what a row takes on disk where no size is stored: the same here, but for a few bytes.
    assert max(portions) <= 200 / 4


async def test_another_write_waits_for_one_portion_at_most(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eraser, "MOST_ROWS", 100)
    await make_session(database_url, "s", LENGTH)
    async with open_store(database_url) as store:
        await store.create_session("other")
        deleting = asyncio.create_task(store.delete_session("s", hard=True))
        left = [count(database_url)]
        while not deleting.done():
            await store.append_messages("other", WORDS[:1])
            left.append(count(database_url))
        written = (await store.get_session("other")).message_count
        await deleting
    # Each append adds a row. Two portions may meet it: one under way, and one that shares its transaction.
    gone = [before + 1 - after for before, after in pairwise(left)]
    assert max(gone) <= 200
    assert written >= LENGTH // 200, "it is not starved by the erasing"


async def test_what_is_small_leaves_nothing_behind(database_url: str) -> None:
    async with held(database_url) as (store, _):
        await store.create_session("s", messages=WORDS * 100)
        await store.truncate_messages("s", after=150)
        await store.replace_messages("s", WORDS)
        assert count(database_url) == 2
        await store.create_approval("s", "call", "look", {})
        await store.delete_session("s", hard=True)
        assert count(database_url) == count(database_url, "sessions") == 0
        [row] = await store._core.database.fetch("find_erasable")
        assert not row["found"]


async def test_one_batch_erases_at_once_only_as_much_as_one_small_session(database_url: str) -> None:
    """Many small deletions together would be a large one."""
    async with held(database_url) as (store, begin):
        for number in range(10):
            await store.create_session(f"s{number}", messages=WORDS * 150)
        deleting = [asyncio.create_task(store.delete_session(f"s{n}", hard=True)) for n in range(10)]
        async with asyncio.timeout(60):
            while count(database_url, "sessions WHERE owner IS NOT NULL"):  # noqa: ASYNC110 - nor of this
                await asyncio.sleep(0.01)
        assert 10 * 300 - 1000 <= count(database_url) < 10 * 300
        begin.set()
        await asyncio.gather(*deleting)
        assert count(database_url) == count(database_url, "sessions") == 0


async def test_everything_of_a_session_is_erased(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eraser, "FIRST_ROWS", 3)
    monkeypatch.setattr(eraser, "MOST_ROWS", 7)
    async with open_store(database_url) as store:
        for number in range(3):
            await store.create_session(f"s{number}", messages=WORDS * 10)
    fill = """
        INSERT INTO agent_switches (session_db_id, n, from_agent, to_agent, switched_at, metadata)
        SELECT s.id, m.seq, 'ask', 'coder', s.created_at, '{{}}'
          FROM sessions AS s JOIN messages AS m ON m.session_db_id = s.id;
        INSERT INTO pending_approvals (session_db_id, call_id, tool_name, arguments, status, created_at)
        SELECT s.id, 'call ' || m.seq, '"look"', '{{}}', 'pending', s.created_at
          FROM sessions AS s JOIN messages AS m ON m.session_db_id = s.id;
        INSERT INTO turns (session_db_id, n, turn_id, status, agent, started_at, ended_at, input_tokens,
                           output_tokens, instance, beat, stop_requested, last_event, text_length,
                           events_kept)
        SELECT s.id, m.seq, 'turn ' || s.id || '-' || m.seq, 'completed', 'ask', s.created_at,
               s.created_at, 0, 0, 'i', 1, {no}, 2, 0, {yes}
          FROM sessions AS s JOIN messages AS m ON m.session_db_id = s.id;
        INSERT INTO turn_events (session_db_id, turn_n, n, kind, data)
        SELECT t.session_db_id, t.n, m.seq, 'text', 'words'
          FROM turns AS t JOIN messages AS m ON m.session_db_id = t.session_db_id;
    """
    await execute(database_url, fill.format(no=0, yes=1), fill.format(no="false", yes="true"))
    async with open_store(database_url) as store:
        await store.delete_session("s0", hard=True)
        assert count(database_url, "sessions") == 2
        assert await store.turns.count_waiting_approvals() == 40
        await store.delete_session("s1", hard=True)
    for table, rows in {"messages": 20, "agent_switches": 20, "pending_approvals": 20, "turns": 20}.items():
        assert count(database_url, table) == rows
    assert count(database_url, "turn_events") == 400
    assert count(database_url, "agent_contexts") == count(database_url, "sessions") == 1


async def test_what_is_gone_is_counted_nowhere(database_url: str) -> None:
    await make_session(database_url, "s", LENGTH)
    async with held(database_url) as (store, _):
        await store.create_approval("s", "call", "look", {})
        await store.switch_agent("s", "coder")
        deleting = asyncio.create_task(store.delete_session("s", hard=True))
        await store.create_session("t", messages=WORDS)
        assert await store.turns.count_waiting_approvals() == 0
        [counts] = await store._core.database.fetch("count_everything")
        # Sessions, deleted ones, messages, tokens, switches, turns, approvals, keys.
        assert list(counts) == [1, 0, 2, 0, 0, 0, 0, 0]
        assert await store._core.database.fetch("list_wrong_heads", 10) == []
        store.end_streams()
        await deleting


async def test_w12_a_deletion_that_is_still_erased_is_repeated_under_its_key(database_url: str) -> None:
    await make_session(database_url, "s", LENGTH)
    async with held(database_url) as (store, _):
        deleting = asyncio.create_task(store.delete_session("s", hard=True, idempotency_key="k"))
        await gone(store, "s")
        with pytest.raises(SessionNotFound):
            await store.delete_session("s", hard=True)
        again = asyncio.create_task(store.delete_session("s", hard=True, idempotency_key="k"))
        await store.create_session("t")
        store.end_streams()
        assert [(await deleting).replayed, (await again).replayed] == [False, True]


async def test_the_next_start_erases_what_the_last_one_left(database_url: str) -> None:
    await make_session(database_url, "s", LENGTH)
    await make_session(database_url, "t", LENGTH)
    async with held(database_url) as (store, _):
        deleting = asyncio.create_task(store.delete_session("s", hard=True))
        await store.truncate_messages("t", after=5)
        store.end_streams()
        assert (await deleting).deleted
    assert count(database_url) == 2 * LENGTH
    async with open_store(database_url) as store:
        await erased(store)
        assert (count(database_url), count(database_url, "sessions")) == (5, 1)


async def test_r4_a_start_with_nothing_to_erase_looks_once(database_url: str) -> None:
    class Counted(Delayed):
        asked: list[str] = []  # noqa: RUF012 - one for the one test

        async def fetch(self, statement: str, *parameters: object) -> Any:
            self.asked.append(statement)
            return await super().fetch(statement, *parameters)

    database = Counted(await open_database(database_url))
    store = Store(Core(database, Settings(), Metrics()))
    await store.create_session("s")
    await store.close(5)
    assert database.asked.count("find_erasable") <= 1


async def test_the_cleanup_erases_large_sessions_of_all_owners(database_url: str) -> None:
    for number in range(3):
        await make_session(database_url, f"s{number}", 1_500)
    async with open_store(database_url) as store:
        for owner in ("ann", "bob"):
            for number in range(120):
                await store.create_session(f"{owner} {number}", owner=owner)
        cleaned = await store.cleanup(max_age_hours=0)
        assert (cleaned.soft_deleted, cleaned.hard_deleted) == (243, 0)
        cleaned = await store.cleanup(hard_delete_after_days=0)
        assert (cleaned.soft_deleted, cleaned.hard_deleted) == (0, 243)
        assert count(database_url) == count(database_url, "sessions") == 0


async def test_two_instances_erase_the_same_in_peace(
    postgres_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eraser, "MOST_ROWS", 50)
    monkeypatch.setattr(eraser, "LOOK_SECONDS", 0.01)
    for number in range(4):
        await make_session(postgres_url, f"s{number}", 1_500)
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    before = query(postgres_url, deadlocks)
    with caplog.at_level(logging.WARNING, "agent_runtime"):
        async with open_store(postgres_url) as here, open_store(postgres_url) as there:
            await asyncio.gather(
                here.truncate_messages("s0", after=10),
                there.truncate_messages("s1", after=10),
                here.delete_session("s2", hard=True),
                there.delete_session("s3", hard=True),
            )
            for number in range(20):
                store = (here, there)[number % 2]
                await store.append_messages(f"s{number // 2 % 2}", WORDS[:1])
            await erased(here)
            assert {len((await here.list_messages(f"s{n}")).seqs) for n in range(2)} == {20}
    assert count(postgres_url) == 40
    assert query(postgres_url, deadlocks) == before
    assert [record.getMessage() for record in caplog.records if "slow" not in record.getMessage()] == []


async def test_erasing_goes_on_where_a_statement_has_little_time(postgres_url: str) -> None:
    """What is erased stays so: a portion that takes too long is followed by smaller ones."""
    await make_session(postgres_url, "s", 1_050)
    await execute(
        postgres_url,
        "",
        """CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN PERFORM pg_sleep(0.005); RETURN old; END $$;
           CREATE TRIGGER wait BEFORE DELETE ON messages FOR EACH ROW EXECUTE FUNCTION wait();""",
    )
    hasty = Settings(command_timeout=0.3, write_timeout=1.0)
    async with open_store(postgres_url, hasty) as store:
        await store.delete_session("s", hard=True)
        assert 0 < count(postgres_url) <= 1_050
        await erased(store)
    assert count(postgres_url) == 0


async def test_a_client_that_goes_away_stops_no_erasing(database_url: str) -> None:
    await make_session(database_url, "s", LENGTH)
    async with held(database_url) as (store, begin):
        deleting = asyncio.create_task(store.delete_session("s", hard=True))
        await store.create_session("t")
        deleting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await deleting
        begin.set()
        await erased(store)
        assert count(database_url) == 0
