"""The index of words, under servers that are killed at random moments: in the end it is whole."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from random import Random

import pytest

from tests.faults.checker import check
from tests.faults.conftest import Report
from tests.faults.load import Load
from tests.faults.restarted_server import mortal_server
from tests.faults.stored import find_damage, read_database
from tests.migrations.catalogue import query, sqlite_path
from tests.process.http_client import http_client

# A server is killed after at most so many writes, and then so many seconds.
MOST_WRITES, LONGEST_WAIT = 100, 0.3
PATIENCE = 60

# Messages that can be read, and have no entry.
MISSING = """
    SELECT count(*) FROM messages AS m JOIN sessions AS s ON s.id = m.session_db_id
     WHERE s.owner IS NOT NULL AND NOT (m.seq > s.cut_after AND m.seq <= s.cut_through)
       AND NOT EXISTS (SELECT 1 FROM search_entries AS e
                        WHERE e.session_db_id = m.session_db_id AND e.seq = m.seq)
"""


@pytest.mark.rounds(10)
async def test_r8_killed_while_it_indexes_the_index_is_whole_in_the_end(
    database_url: str, rounds: int, seed: int, report: Report
) -> None:
    chance = Random(seed)
    async with mortal_server({"DB_URL": database_url}) as server:
        load = Load([server.target], seed=seed)
        async with load.running():
            for _ in range(rounds):
                async with asyncio.timeout(PATIENCE):
                    await load.work(chance.randint(0, MOST_WRITES))
                    await asyncio.sleep(chance.uniform(0, LONGEST_WAIT))
                    await server.kill(load.journal)
                    await server.start()
        async with http_client(server.process.url) as client, asyncio.timeout(PATIENCE):
            while not (await client.get("/search?q=complete"))["complete"]:
                pass
        assert await server.stop() == 0
    findings = check(load.journal, read_database(database_url)) + find_damage(database_url)
    [(entries,)] = query(database_url, "SELECT count(*) FROM search_entries")
    report(rounds=rounds, acknowledged=load.journal.count("acknowledged"), entries=entries)
    assert not findings, "\n".join(findings[:20])
    assert query(database_url, MISSING) == [(0,)]
    assert query(database_url, "SELECT count(*) FROM search_queue") == [(0,)]
    if database_url.startswith("sqlite"):
        with closing(sqlite3.connect(sqlite_path(database_url))) as connection:
            # Raises where an entry and the index differ.
            connection.execute("INSERT INTO search_words (search_words, rank) VALUES ('integrity-check', 1)")
