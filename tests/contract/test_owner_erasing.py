"""All that an owner has is erased: from every table, from the cache, and where asked from the files."""

from __future__ import annotations

import asyncio
import logging
from contextlib import closing
from typing import Any

import pytest

from runtime.access.authentication import open_authenticator
from runtime.config import Settings
from runtime.errors import InvalidInput, NotStored, SessionNotFound, ShuttingDown
from runtime.models import ErasedOwner
from runtime.store import owners, tokens
from runtime.store.store import Store, open_store
from tests.support.database_locks import execute
from tests.support.delayed_database import delayed_store
from tests.support.held_eraser import LENGTH, count, held
from tests.support.long_sessions import make_session
from tests.support.marked_owner_rows import (
    MARK,
    OWNER,
    connect,
    files_with,
    fill,
    message,
    rows_of_others,
    tables_with,
)
from tests.support.running_turns import user

pytestmark = pytest.mark.slow

# Every table with something of an owner's.
TABLES = {
    *("sessions", "messages", "agent_contexts", "agent_switches", "pending_approvals", "turns"),
    *("turn_events", "idempotency_keys", "tokens", "imported_sessions", "session_labels"),
}
NOTHING = ErasedOwner(OWNER, 0, 0, 0)


async def add_others(store: Store) -> None:
    """What has to stay: of nobody, and of owners with names that begin or end alike."""
    for owner in ("", "alice", "hush", "~"):
        await store.create_session("s", owner=owner, messages=[user("x")], idempotency_key="open")
        await store.tokens.create("test", owner=owner)
    await fill(store, "other", "plain words")


async def index(store: Store) -> None:
    """Wait until all messages are indexed: then nothing is queued."""
    while not (await store.search("word")).complete:
        pass


async def test_every_row_of_an_owner_goes_and_no_other(database_url: str) -> None:
    async with open_store(database_url) as store:
        await add_others(store)
        await index(store)
        before = rows_of_others(database_url)
        await fill(store)
        await index(store)
        assert tables_with(database_url).keys() == TABLES
        erased = await store.erase_owner(OWNER)
        assert (erased.sessions, erased.messages, erased.tokens) == (3, 6, 2)
        assert tables_with(database_url) == {}
        # The index has words, of which the mark is two.
        assert tables_with(database_url, MARK.partition("-")[2].partition("-")[2]) == {}
        assert rows_of_others(database_url) == before
        assert await store._core.database.fetch("list_wrong_heads", 10) == []
        assert {token.owner for token in await store.tokens.list_all()} == {"", "alice", "hush", "other", "~"}


async def test_a_repeat_answers_zeros(store: Store) -> None:
    await fill(store)
    assert (await store.erase_owner(OWNER)).sessions == 3
    assert [await store.erase_owner(OWNER) for _ in range(2)] == [NOTHING, NOTHING]
    assert await store.erase_owner("never seen") == ErasedOwner("never seen", 0, 0, 0)


async def test_an_owner_begins_anew_afterwards(store: Store) -> None:
    await fill(store)
    await store.erase_owner(OWNER)
    await fill(store)
    # A key that was erased is free, and no number of a session goes on.
    assert (await store.get_session(f"{MARK} open", owner=OWNER)).last_seq == 4
    assert (await store.erase_owner(OWNER)).sessions == 3


async def test_a_dry_run_counts_and_changes_nothing(database_url: str) -> None:
    async with open_store(database_url) as store:
        await fill(store)
        before = tables_with(database_url)
        counted = await store.erase_owner(OWNER, dry_run=True)
        assert tables_with(database_url) == before
        assert await store.erase_owner(OWNER) == counted
        assert await store.erase_owner(OWNER, dry_run=True) == NOTHING


async def test_what_is_nobodys_is_erased_only_where_that_is_said(store: Store) -> None:
    await add_others(store)
    for wrong in ({"owner": ""}, {"owner": "", "dry_run": True}, {"owner": "alice", "nobody": True}):
        with pytest.raises(InvalidInput):
            await store.erase_owner(**wrong)  # type: ignore[arg-type]
    assert await store.erase_owner("", nobody=True) == ErasedOwner("", 1, 1, 1)
    assert await store.erase_owner("", nobody=True) == ErasedOwner("", 0, 0, 0)
    assert [owner.owner for owner in (await store.list_owners()).owners] == ["alice", "hush", "other", "~"]


@pytest.mark.parametrize("name", ["a\x00", "x" * 256, "\ud800"])
async def test_a_name_is_one_that_an_owner_can_have(store: Store, name: str) -> None:
    with pytest.raises(InvalidInput):
        await store.erase_owner(name)


async def test_more_sessions_keys_and_tokens_than_a_transaction_takes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, name, most in (
        (owners, "MOST_SESSIONS", 4),
        (owners, "FEWEST_SESSIONS", 2),
        (owners, "MOST_KEYS", 3),
        (tokens, "PORTION", 3),
    ):
        monkeypatch.setattr(place, name, most)
    for size in (12, 7):
        for number in range(size):
            key = f"k{number}"
            await store.create_session(f"s{number}", owner="a", messages=[user("x")], idempotency_key=key)
            await store.tokens.create("test", owner="a")
        assert await store.erase_owner("a") == ErasedOwner("a", size, size, size)
        assert not await store._core.database.fetch("list_idempotency_keys_to_erase", "a", 1)


async def test_r7_rows_go_in_small_transactions(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many sessions that are small no batch takes more than its share, whatever the queue holds."""
    monkeypatch.setattr(owners, "MOST_SESSIONS", 5)
    monkeypatch.setattr(owners, "FEWEST_SESSIONS", 5)
    await execute(
        database_url,
        """CREATE TABLE noted (batch integer);
           CREATE TRIGGER note AFTER DELETE ON sessions
           BEGIN INSERT INTO noted SELECT max(batch) FROM writers; END;""",
        """CREATE TABLE noted (batch bigint);
           CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN INSERT INTO noted SELECT max(batch) FROM writers; RETURN old; END $$;
           CREATE TRIGGER note AFTER DELETE ON sessions FOR EACH ROW EXECUTE FUNCTION note();""",
    )
    async with open_store(database_url) as store:
        for number in range(40):
            await store.create_session(f"s{number}", owner="a", messages=[user("x")])
        await store.erase_owner("a")
    with closing(connect(database_url)) as connection:
        portions = [rows for (rows,) in connection.execute("SELECT count(*) FROM noted GROUP BY batch")]
    assert sum(portions) == 40
    assert max(portions) <= 20, "the first batch has twenty"
    assert len(portions) >= 5


# The cache


async def test_nothing_is_left_in_the_cache(store: Store) -> None:
    await store.create_session("other", owner="b", messages=[user("x")])
    await fill(store)
    cache = store._core.cache
    assert MARK in repr([entry.messages for entry in cache._entries.values()])
    await store.erase_owner(OWNER)
    assert {key.owner for key in cache._entries} == {"b"}
    assert set(cache._keys.values()) == set(cache._entries)
    with pytest.raises(SessionNotFound):
        await store.list_messages(f"{MARK} open", owner=OWNER)


async def test_nothing_is_left_in_the_cache_of_another_instance(postgres_url: str) -> None:
    async with open_store(postgres_url) as here, open_store(postgres_url) as there:
        await fill(here)
        await there.append_messages(f"{MARK} open", [message(5)], owner=OWNER)
        await there.list_messages(f"{MARK} open", last=10, owner=OWNER)
        assert {key.owner for key in there._core.cache._entries} == {OWNER}
        await here.erase_owner(OWNER)
        async with asyncio.timeout(60):
            while there._core.cache._entries:  # noqa: ASYNC110 - no event says so
                await asyncio.sleep(0.01)
        assert there._core.cache.size == 0


# Tokens


async def test_a_closed_server_stays_closed_without_any_token(database_url: str) -> None:
    settings = Settings(db_url=database_url)
    async with open_store(database_url, settings) as store:
        _, text = await store.tokens.create("the only one", owner=OWNER)
        await store.erase_owner(OWNER)
        assert await store.tokens.list_all() == []
        assert await store.tokens.prove(text) is None
        async with open_authenticator(settings, store.tokens) as gate:
            assert not gate.open
    assert tables_with(database_url, "the only one") == {}


async def test_an_open_server_stays_open_where_there_never_was_a_token(database_url: str) -> None:
    async with open_store(database_url) as store:
        await store.create_session("s", owner=OWNER)
        await store.erase_owner(OWNER)
        assert not await store.tokens.any_exist()


# Beside other work


async def test_what_the_owner_makes_meanwhile_goes_too(database_url: str) -> None:
    async with delayed_store(database_url) as (store, database):
        await store.create_session("first", owner=OWNER, messages=[message(1)])
        delay = database.delay("before", "list_idempotency_keys_to_erase")
        erasing = asyncio.create_task(store.erase_owner(OWNER))
        async with asyncio.timeout(60):
            await delay.reached.wait()
        await store.create_session("second", owner=OWNER, messages=[message(2)], idempotency_key="k")
        await store.tokens.create("late", owner=OWNER)
        delay.release.set()
        assert await erasing == ErasedOwner(OWNER, 2, 2, 1)
        assert tables_with(database_url) == {}


async def test_an_owner_who_goes_on_and_on_is_not_waited_for(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, made = store._owners, 0
    real = work._delete_keys

    async def make_another(owner: str) -> int:
        nonlocal made
        made += 1
        await store.create_session(f"late {made}", owner=owner)
        return await real(owner)

    monkeypatch.setattr(work, "_delete_keys", make_another)
    await store.create_session("first", owner=OWNER)
    assert (await store.erase_owner(OWNER)).sessions == made == owners.PASSES


async def test_what_was_accepted_goes_too(database_url: str) -> None:
    async with open_store(database_url, Settings(flush_interval=3600.0)) as store:
        await store.replace_messages("s", [message(1)], create=True, durability="buffered", owner=OWNER)
        assert (await store.erase_owner(OWNER)).sessions == 1
    assert tables_with(database_url) == {}


async def test_a_turn_that_runs_ends(store: Store) -> None:
    started = await store.turns.start_turn("s", messages=[message(1)], owner=OWNER)
    await store.erase_owner(OWNER)
    with pytest.raises(SessionNotFound):
        await store.stop_turn("s", started.turn.turn_id, owner=OWNER)


async def test_it_is_done_when_no_row_is_left(database_url: str) -> None:
    await make_session(database_url, "s", LENGTH)
    await execute(database_url, *[f"UPDATE sessions SET owner = '{OWNER}'"] * 2)
    async with held(database_url) as (store, begin):
        erasing = asyncio.create_task(store.erase_owner(OWNER))
        async with asyncio.timeout(60):
            while (await store.list_owners()).owners:  # noqa: ASYNC110 - no event says so
                await asyncio.sleep(0)
        await store.create_session("other")
        assert not erasing.done()
        begin.set()
        assert await erasing == ErasedOwner(OWNER, 1, LENGTH, 0)
        assert (count(database_url), count(database_url, "sessions")) == (0, 1)


async def test_a_repeat_waits_for_rows_that_an_interrupted_one_has_left(database_url: str) -> None:
    await make_session(database_url, "s", LENGTH)
    await execute(database_url, *[f"UPDATE sessions SET owner = '{OWNER}'"] * 2)
    async with held(database_url) as (store, _):
        erasing = asyncio.create_task(store.erase_owner(OWNER))
        async with asyncio.timeout(60):
            while (await store.list_owners()).owners:  # noqa: ASYNC110 - no event says so
                await asyncio.sleep(0)
        store.end_streams()
        with pytest.raises(ShuttingDown):
            await erasing
    assert count(database_url) == LENGTH
    async with open_store(database_url) as store:
        assert await store.erase_owner(OWNER) == NOTHING
        assert count(database_url) == count(database_url, "sessions") == 0


async def test_rows_that_cannot_be_erased_are_an_error_and_a_repeat_goes_on(database_url: str) -> None:
    await make_session(database_url, "s", LENGTH)
    await execute(
        database_url,
        f"""UPDATE sessions SET owner = '{OWNER}';
            CREATE TRIGGER keep BEFORE DELETE ON messages BEGIN SELECT RAISE(ABORT, 'kept'); END;""",
        f"""UPDATE sessions SET owner = '{OWNER}';
            CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE EXCEPTION 'kept' USING ERRCODE = 'check_violation'; END $$;
            CREATE TRIGGER keep BEFORE DELETE ON messages FOR EACH ROW EXECUTE FUNCTION keep();""",
    )
    async with open_store(database_url) as store:
        with pytest.raises(NotStored, match="still to be erased"):
            await store.erase_owner(OWNER)
        await store.create_session("other")
    await execute(database_url, "DROP TRIGGER keep", "DROP TRIGGER keep ON messages")
    async with open_store(database_url) as store:
        assert await store.erase_owner(OWNER) == NOTHING
        assert count(database_url) == 0


async def test_two_at_once_share_the_work(store: Store) -> None:
    await fill(store)
    one, other = await asyncio.gather(store.erase_owner(OWNER), store.erase_owner(OWNER))
    assert (one.sessions + other.sessions, one.messages + other.messages) == (3, 6)
    assert await store.erase_owner(OWNER) == NOTHING


async def test_an_erasing_is_logged_with_its_counts(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    await fill(store)
    with caplog.at_level(logging.INFO, "agent_runtime.owners"):
        await store.erase_owner(OWNER)
    [record] = (record for record in caplog.records if record.name == "agent_runtime.owners")
    fields: dict[str, Any] = vars(record)
    assert (fields["owner"], fields["sessions"], fields["messages"], fields["tokens"]) == (OWNER, 3, 6, 2)


# The files


async def scatter(store: Store) -> None:
    """Rows of the owner between those of another, changed and cut again and again: pages are rearranged."""
    await fill(store)
    for number in range(60):
        await store.append_messages(f"{MARK} open", [message(number, content=f"{MARK} " * 20)], owner=OWNER)
        await store.create_session(f"s{number}", owner="other", messages=[user("x" * 300)])
        await store.update_session(f"{MARK} open", title=f"{MARK} {number}", owner=OWNER)
    await store.truncate_messages(f"{MARK} open", after=30, owner=OWNER)
    await execute_analyze(store)


async def execute_analyze(store: Store) -> None:
    if not store._core.database.sole_writer:
        async with store._core.database.transaction() as tx:
            await tx._connection.execute("ANALYZE")  # type: ignore[attr-defined]


async def test_with_a_vacuum_no_page_of_a_file_has_anything(database_url: str) -> None:
    async with open_store(database_url) as store:
        await add_others(store)
        await scatter(store)
    assert files_with(database_url)
    async with open_store(database_url) as store:
        await store.erase_owner(OWNER)
        await store.vacuum()
        assert files_with(database_url) == []
        # It goes on, before and after the next start.
        await store.create_session("later", messages=[user("x")])
        assert (await store.get_session("s59", owner="other")).message_count == 1
    assert tables_with(database_url) == {}
    assert files_with(database_url) == []
    async with open_store(database_url) as store:
        assert (await store.get_session("later")).message_count == 1
        assert await store._core.database.fetch("list_wrong_heads", 10) == []


async def test_sqlite_overwrites_what_it_deletes(sqlite_url: str) -> None:
    """Without a vacuum: a row in a page of its own leaves nothing, once the WAL is back in the file."""
    long = f"{MARK} " * 2000
    async with open_store(sqlite_url) as store:
        [(secure,)] = await store._core.database._writer.connection.execute_fetchall("PRAGMA secure_delete")  # type: ignore[attr-defined]
        assert secure == 1
        await store.create_session("s", owner="plain", messages=[user(long)])
    assert files_with(sqlite_url)
    async with open_store(sqlite_url) as store:
        assert (await store.erase_owner("plain")).messages == 1
    assert files_with(sqlite_url, long[:1000]) == []


async def test_a_vacuum_may_be_repeated_beside_reads(store: Store) -> None:
    await store.create_session("s", messages=[user("x")])
    await asyncio.gather(store.vacuum(), *(store.list_messages("s") for _ in range(20)), store.vacuum())
    await store.append_messages("s", [user("y")])
    assert (await store.get_session("s")).message_count == 2
