"""Tokens: made, listed, revoked, and looked up, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from runtime.db.connect import open_database
from runtime.db.database import Database
from runtime.errors import DatabaseUnavailable, InvalidInput, TokenNotFound
from runtime.models import Token
from runtime.store.tokens import Tokens, id_in
from tests.support.running_turns import Clock

pytestmark = pytest.mark.slow


@pytest.fixture
def tokens(database: Database, clock: Clock) -> Tokens:
    return Tokens(database, clock)


class Counted:
    """A database that counts its reads, and lets them wait at a gate of the test."""

    def __init__(self, database: Database) -> None:
        self.reads = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.reached = asyncio.Event()
        self._database = database

    async def fetch(self, statement: str, *parameters: object) -> Sequence[Any]:
        self.reads += 1
        self.reached.set()
        await self.gate.wait()
        return await self._database.fetch(statement, *parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


@pytest.fixture
async def counted(database: Database) -> AsyncIterator[Counted]:
    counted = Counted(database)
    yield counted
    counted.gate.set()


async def test_a_token_proves_its_owner(tokens: Tokens, clock: Clock) -> None:
    token, text = await tokens.create("ci", owner="alice", scope="read")
    assert token == Token(token.id, "ci", "alice", "read", clock.now, None, None)
    assert await tokens.prove(text) == token
    assert await tokens.find_valid(token.id) == token
    assert await tokens.list_all() == [token]
    assert id_in(text) == token.id


async def test_any_exist(tokens: Tokens) -> None:
    assert not await tokens.any_exist()
    token, _ = await tokens.create("ci")
    assert await tokens.any_exist()
    # Revoking the last one opens nothing.
    await tokens.revoke(token.id)
    assert await tokens.any_exist()


async def test_what_is_nearly_a_token_proves_nothing(tokens: Tokens) -> None:
    token, text = await tokens.create("ci")
    other, _ = await tokens.create("other")
    _, id, secret = text.split("_")
    last = "0" if text[-1] != "0" else "1"
    for wrong in (
        *("", "art", "art_", "art__", f"art_{id}", f"art_{id}_", secret, f"{id}_{secret}"),
        *(text[:-1], text[:-1] + last, text + "0", text.upper(), " " + text, text + " ", text + "\n"),
        *(f"art_{other.id}_{secret}", f"art_{id}_{'0' * 64}", f"art_{id[:-1]}_{secret}"),
        *(f"art_{id}_\udcff", f"art_{id}\x00_{secret}", f"art_ü_{secret}", f"art_\udcff_{secret}"),
        *(f"art_%_{secret}", f"art_' OR 1=1 --_{secret}", 'art_"]_x', f"art_{'x' * 10_000}_x"),
        *(token.name, token.id, "art_" * 1000),
    ):
        assert await tokens.prove(wrong) is None, wrong


async def test_the_secret_is_stored_nowhere(tokens: Tokens, database_url: str, postgres_server: Any) -> None:
    _, text = await tokens.create("ci")
    secret = text.rpartition("_")[2]
    assert len(bytes.fromhex(secret)) == 32
    kept = await asyncio.to_thread(everything_in, database_url)
    assert secret.encode() not in kept
    assert bytes.fromhex(secret) not in kept
    # The dump has what is stored.
    assert text.split("_")[1].encode() in kept


def everything_in(url: str) -> bytes:
    """The files of a SQLite database; each row of each table of a Postgres, as text."""
    if url.startswith("sqlite"):
        path = Path(url.removeprefix("sqlite:///"))
        return b"".join(file.read_bytes() for file in path.parent.glob(path.name + "*"))
    with psycopg.connect(url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        statements = (sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(name)) for (name,) in tables)
        return repr([connection.execute(statement).fetchall() for statement in statements]).encode()


async def test_expiry(tokens: Tokens, clock: Clock) -> None:
    token, text = await tokens.create("ci", lifetime=timedelta(hours=1))
    assert token.expires_at == clock.now + timedelta(hours=1)
    clock.now += timedelta(hours=1) - timedelta(microseconds=1)
    assert await tokens.prove(text) == token
    clock.now += timedelta(microseconds=1)
    assert await tokens.prove(text) is None
    assert await tokens.find_valid(token.id) is None
    assert await tokens.list_all() == [token]


async def test_a_lifetime_beyond_the_calendar_is_refused(tokens: Tokens) -> None:
    with pytest.raises(InvalidInput):
        await tokens.create("ci", lifetime=timedelta.max)
    assert await tokens.list_all() == []


@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[2J", "x" * 256, "\udcff", "a\u0085b"])
async def test_names_and_owners_that_are_no_keys_are_refused(tokens: Tokens, name: str) -> None:
    with pytest.raises(InvalidInput):
        await tokens.create(name)
    if name:
        with pytest.raises(InvalidInput):
            await tokens.create("ci", owner=name)
    assert await tokens.list_all() == []


@pytest.mark.parametrize("by", ["id", "name", "text"])
async def test_revoking(tokens: Tokens, clock: Clock, by: str) -> None:
    token, text = await tokens.create("ci")
    other, kept = await tokens.create("other")
    clock.now += timedelta(seconds=1)
    assert await tokens.revoke({"id": token.id, "name": "ci", "text": text}[by]) == token
    assert await tokens.prove(text) is None
    assert await tokens.prove(kept) == other
    assert {token.name: token.revoked_at for token in await tokens.list_all()} == {
        "ci": clock.now,
        "other": None,
    }


async def test_revoking_twice_keeps_the_first_time(tokens: Tokens, clock: Clock) -> None:
    token, _ = await tokens.create("ci")
    await tokens.revoke(token.id)
    first, clock.now = clock.now, clock.now + timedelta(seconds=1)
    assert (await tokens.revoke(token.id)).revoked_at == first
    assert (await tokens.list_all())[0].revoked_at == first


async def test_names_may_be_ambiguous(tokens: Tokens) -> None:
    first, _ = await tokens.create("ci")
    second, text = await tokens.create("ci")
    with pytest.raises(TokenNotFound) as refused:
        await tokens.revoke("ci")
    assert first.id in str(refused.value)
    assert second.id in str(refused.value)
    assert await tokens.prove(text) == second
    await tokens.revoke(first.id)
    # What is revoked is named no more.
    assert await tokens.revoke("ci") == second
    with pytest.raises(TokenNotFound):
        await tokens.revoke("ci")


async def test_a_name_means_the_valid_one(tokens: Tokens, clock: Clock) -> None:
    await tokens.create("ci", lifetime=timedelta(seconds=1))
    clock.now += timedelta(seconds=1)
    second, _ = await tokens.create("ci")
    assert await tokens.revoke("ci") == second


async def test_an_id_comes_before_a_name(tokens: Tokens) -> None:
    first, _ = await tokens.create("ci")
    await tokens.create(first.id)
    assert await tokens.revoke(first.id) == first


async def test_nothing_is_revoked_by_a_wrong_name(tokens: Tokens) -> None:
    token, text = await tokens.create("ci")
    for wrong in ("", "CI", "c", "%", "art_0a_1b"):
        with pytest.raises(TokenNotFound):
            await tokens.revoke(wrong)
    assert await tokens.prove(text) == token


async def test_many_who_ask_at_once_share_a_look_up(counted: Counted, clock: Clock) -> None:
    tokens = Tokens(counted, clock)
    made = [await tokens.create(f"token {n}", owner=f"owner {n}") for n in range(20)]
    counted.reads = 0
    asked = [tokens.prove(text) for _ in range(25) for _, text in made]
    assert await asyncio.gather(*asked) == [token for _ in range(25) for token, _ in made]
    assert counted.reads <= 2


async def test_who_asks_after_a_revocation_is_not_told_of_before(counted: Counted, clock: Clock) -> None:
    tokens = Tokens(counted, clock)
    token, text = await tokens.create("ci")
    counted.gate.clear()
    counted.reached.clear()
    before = asyncio.create_task(tokens.prove(text))
    await counted.reached.wait()
    # The look-up of the first is under way; here the answer to it is still "valid".
    async with counted.transaction() as tx:
        await tx.execute_many("revoke_token", [(token.id, clock.now)])
    after = [asyncio.create_task(tokens.prove(text)) for _ in range(10)]
    counted.gate.set()
    assert await asyncio.gather(*after) == [None] * 10
    await before


async def test_a_cancelled_asker_does_not_disturb_the_others(counted: Counted, clock: Clock) -> None:
    tokens = Tokens(counted, clock)
    token, text = await tokens.create("ci")
    counted.gate.clear()
    counted.reached.clear()
    asked = [asyncio.create_task(tokens.prove(text)) for _ in range(10)]
    await counted.reached.wait()
    late = [asyncio.create_task(tokens.prove(text)) for _ in range(10)]
    await asyncio.sleep(0)
    for task in (*asked[:5], *late[:5]):
        task.cancel()
    counted.gate.set()
    assert await asyncio.gather(*asked[5:], *late[5:]) == [token] * 10
    assert await tokens.prove(text) == token


async def test_without_a_database_nobody_can_tell(database_url: str, clock: Clock) -> None:
    database = await open_database(database_url)
    tokens = Tokens(database, clock)
    token, text = await tokens.create("ci")
    await database.close()
    asked = (tokens.prove(text), tokens.prove("art_0a_1b"), tokens.find_valid(token.id), tokens.any_exist())
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {DatabaseUnavailable}
    # What has not even the form of a token is wrong, whatever the database holds.
    assert await tokens.prove("x") is None


async def test_a_database_that_does_not_answer_is_unavailable(
    counted: Counted, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.store.tokens.LOOK_UP_SECONDS", 0.05)
    tokens = Tokens(counted, clock)
    token, text = await tokens.create("ci")
    counted.gate.clear()
    outcomes = await asyncio.gather(*(tokens.prove(text) for _ in range(20)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {DatabaseUnavailable}
    counted.gate.set()
    assert await tokens.prove(text) == token


async def test_times_are_utc(tokens: Tokens, clock: Clock) -> None:
    clock.now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    await tokens.create("ci", lifetime=timedelta(days=90))
    [token] = await tokens.list_all()
    assert (token.created_at, token.expires_at) == (clock.now, datetime(2026, 5, 30, 12, tzinfo=UTC))
