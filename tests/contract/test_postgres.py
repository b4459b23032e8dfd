"""What only Postgres can do to us: lost connections, lost replies, other instances."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime, timedelta

import psycopg
import pytest

from runtime.db.connect import open_database
from runtime.db.database import Database
from runtime.db.migrate import _yoyo
from runtime.db.url import DatabaseUrl
from runtime.errors import CommitUnknown, DatabaseUnavailable
from runtime.metrics import Metrics
from runtime.models import utc_now
from runtime.store.store import Store, open_store
from tests.support.database_rows import insert_session, session_ids, until
from tests.support.tcp_proxy import Fault, lay_wire

pytestmark = pytest.mark.slow

KILL_OTHERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid() AND query ~ %s
"""


def kill(url: str, query: str) -> int:
    """End every connection whose last statement looks like `query`; how many there were."""
    with psycopg.connect(url) as admin:
        return admin.execute(KILL_OTHERS, [query]).rowcount


@pytest.fixture
def database_url(postgres_url: str) -> str:
    """Only Postgres here."""
    return postgres_url


async def write(database: Database, number: int) -> None:
    async with database.transaction() as transaction:
        await insert_session(transaction, number)


# Defaults of the server


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
async def test_transactions_are_read_committed_whatever_the_default_is(
    postgres_url: str, isolation: str
) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {admin.info.dbname} SET default_transaction_isolation = '{isolation}'")
    metrics = Metrics()
    async with open_store(postgres_url, metrics=metrics) as here, open_store(postgres_url) as there:
        await here.create_session("s")
        # Each switch locks the head, and waits for the other instance's.
        agents = [f"agent {n}" for n in range(40)]
        await asyncio.gather(*(switch_often(store, agents) for store in (here, there)))
    assert metrics.flush_failures.labels(reason="conflict")._value.get() == 0


async def switch_often(store: Store, agents: Sequence[str]) -> None:
    for agent in agents:
        await store.switch_agent("s", agent)


async def test_migrations_are_read_committed_whatever_the_default_is(
    empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c default_transaction_isolation=serializable")
    url = DatabaseUrl.parse(empty_postgres_url)
    with _yoyo(url) as (backend, _):
        [(isolation,)] = backend.execute("SHOW transaction_isolation").fetchall()
    assert isolation == "read committed"


# Connections that are lost


async def test_a_connection_that_dies_in_a_transaction_makes_it_unavailable(
    database: Database, postgres_url: str
) -> None:
    with pytest.raises(DatabaseUnavailable) as raised:
        await write_and_die(database, postgres_url)
    assert not isinstance(raised.value, CommitUnknown)
    await write(database, 2)
    assert await session_ids(database) == [2]


async def write_and_die(database: Database, url: str) -> None:
    async with database.transaction() as transaction:
        await insert_session(transaction, 1)
        assert kill(url, "INSERT INTO sessions") == 1
        await insert_session(transaction, 2)


async def test_a_connection_that_died_before_commit_leaves_the_commit_unknown(
    database: Database, postgres_url: str
) -> None:
    with pytest.raises(CommitUnknown):
        await write_and_lose(database, postgres_url)
    await write(database, 2)
    assert await session_ids(database) == [2]


async def write_and_lose(database: Database, url: str) -> None:
    async with database.transaction() as transaction:
        await insert_session(transaction, 1)
        assert kill(url, "INSERT INTO sessions") == 1


async def test_a_read_outlives_the_death_of_its_connection(database: Database, postgres_url: str) -> None:
    await asyncio.gather(*(database.fetch("ping") for _ in range(10)))
    assert kill(postgres_url, "AS ok") > 0
    assert (await database.fetch("ping"))[0]["ok"] == 1


@pytest.mark.parametrize(
    ("fault", "stored"), [("cut before", []), ("cut after", [1]), ("answer nothing", [1])]
)
async def test_w7_a_lost_reply_to_commit_is_unknown(
    postgres_url: str, fault: Fault, stored: list[int]
) -> None:
    async with lay_wire(postgres_url) as (wire, url):
        database = await open_database(url, command_timeout=0.5, pool_timeout=2)
        wire.at_commit = fault
        with pytest.raises(CommitUnknown):
            await write(database, 1)
        wire.at_commit, wire.frozen = None, False
        await write(database, 2)
        assert await session_ids(database) == [*stored, 2]
        await database.close()


async def test_a_commit_that_is_cancelled_ends_with_its_connection(postgres_url: str) -> None:
    async with lay_wire(postgres_url) as (wire, url):
        database = await open_database(url)
        wire.at_commit = "answer nothing"
        writing = asyncio.create_task(write(database, 1))
        await until(lambda: wire.frozen)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        wire.at_commit, wire.frozen = None, False
        await write(database, 2)
        assert 2 in await session_ids(database)
        await database.close()


async def test_a_server_that_says_nothing_is_unavailable_in_bounded_time(postgres_url: str) -> None:
    async with lay_wire(postgres_url) as (wire, url):
        database = await open_database(url, command_timeout=0.3, pool_timeout=0.3)
        await write(database, 1)
        wire.frozen = True
        started = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            await database.fetch("ping")
        with pytest.raises(DatabaseUnavailable):
            await write(database, 2)
        await database.close()
        assert time.monotonic() - started < 15


async def test_a_server_that_became_read_only_is_left(database: Database, postgres_url: str) -> None:
    await write(database, 1)
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        name = admin.info.dbname
        admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        kill(postgres_url, "COMMIT")
        with pytest.raises(DatabaseUnavailable, match=r"read-only|terminat|closed"):
            await write(database, 2)
        with pytest.raises(DatabaseUnavailable, match="read-only"):
            await write(database, 2)
        admin.execute("SET default_transaction_read_only = off")
        admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = off")
    await write(database, 3)
    assert await session_ids(database) == [1, 3]


# Other instances


class Heard:
    """What a listener heard."""

    def __init__(self, database: Database) -> None:
        self.payloads: list[str] = []
        self.gaps = 0
        database.listen(self.payloads.append, self.note_gap)

    def note_gap(self) -> None:
        self.gaps += 1


async def notify(database: Database, payload: str) -> None:
    async with database.transaction() as transaction:
        await transaction.fetch("announce", "here", utc_now(), None, payload)


async def test_r2_notifications_of_every_instance_are_heard(database: Database, postgres_url: str) -> None:
    other = await open_database(postgres_url)
    heard = Heard(database)
    await until(lambda: heard.gaps == 1)
    await notify(database, "ours")
    await notify(other, "theirs 🙂")
    await until(lambda: heard.payloads == ["ours", "theirs 🙂"])
    await other.close()


async def test_a_transaction_that_rolls_back_notifies_nobody(database: Database, postgres_url: str) -> None:
    other = await open_database(postgres_url)
    heard = Heard(database)
    await until(lambda: heard.gaps == 1)
    with pytest.raises(LookupError):
        await notify_and_raise(other)
    await notify(other, "in")
    await until(lambda: heard.payloads == ["in"])
    await other.close()


async def notify_and_raise(database: Database) -> None:
    async with database.transaction() as transaction:
        await transaction.fetch("announce", "here", utc_now(), None, "out")
        raise LookupError


async def test_r2_a_listener_that_was_lost_comes_back_and_tells_of_the_gap(
    database: Database, postgres_url: str
) -> None:
    other = await open_database(postgres_url)
    heard = Heard(database)
    for gaps in (1, 2, 3):
        await until(lambda expected=gaps: heard.gaps == expected)
        await notify(other, f"after gap {gaps}")
        await until(lambda expected=gaps: f"after gap {expected}" in heard.payloads)
        assert kill(postgres_url, "LISTEN") == 1
    await until(lambda: heard.gaps == 4)
    await other.close()


# Other instances


async def test_w7_a_clock_that_is_years_ahead_takes_no_living_instances_row(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def later() -> datetime:
        return utc_now() + timedelta(days=3 * 365)

    async with open_store(postgres_url) as living, open_store(postgres_url, clock=later) as ahead:
        await living.create_session("s")
        with psycopg.connect(postgres_url) as other:
            other.execute("INSERT INTO writers (id, batch, written_at) VALUES ('dead', 1, now())")
        # Only what is old is looked for: a key is.
        await living.update_session("s", title="t", idempotency_key="k")
        # It has been years ahead for long enough to be believed.
        monkeypatch.setattr("runtime.store.steady_clock.HOLD", 0.0)
        await ahead.cleanup(max_age_hours=1e6, hard_delete_after_days=1e5)
        with psycopg.connect(postgres_url) as other:
            left = {id for (id,) in other.execute("SELECT id FROM writers")}
        assert left == {living._core.database.instance, ahead._core.database.instance}
