"""The search: what it costs an append, and how soon it finds words beside the databases' own bare query."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, closing
from functools import partial
from itertools import accumulate

import psycopg

from runtime.config import Settings
from runtime.store.store import Store, open_store
from runtime.store.words import owner_mark
from tests.bench.databases import Databases
from tests.bench.measuring import Measure, take_turns
from tests.bench.ours import make_sessions
from tests.bench.report import Comparison, Goal, Report
from tests.bench.worker import MESSAGE, measure

KINDS = ("sqlite", "postgres")
CALLERS = (1, 32, 256)
ON, OFF = "search on", "search off"
# Of the appends without the search.
SHARE = 0.9
# A session has so many messages, of so many words out of a vocabulary in which the first ones are frequent.
LENGTH, WORDS, VOCABULARY = 1000, 40, 50_000
# One message in so many has the word, and the milliseconds that its first page may take.
FREQUENCY = {"common": 2, "middle": 100, "seldom": 1000, "rare": 100_000}
WANTED = {"common": 50.0, "rare": 10.0}
BARE = {
    "sqlite": "SELECT rowid FROM search_words WHERE search_words MATCH ? ORDER BY rowid DESC LIMIT 20",
    "postgres": "SELECT id FROM search_entries WHERE words @@ %s::tsquery ORDER BY id DESC LIMIT 20",
}


async def run(databases: Databases, *, rounds: int, seconds: float, quick: bool) -> Report:
    """Appends with and without the search, then first pages."""
    report = Report()
    on, off, filled = await databases.make(), await databases.make(), await databases.make()
    for kind in KINDS:
        await compare_appends(report, kind, {ON: on[kind], OFF: off[kind]}, rounds, seconds)
    for kind in KINDS:
        await compare_pages(report, kind, filled[kind], 50_000 if quick else 1_000_000, rounds)
    return report


async def compare_appends(
    report: Report, kind: str, urls: dict[str, str], rounds: int, seconds: float
) -> None:
    """Rates of appends: both stores are open, and take turns."""
    async with AsyncExitStack() as stack:
        stores = {}
        for name, url in urls.items():
            settings = Settings(db_url=url, search=name == ON)
            stores[name] = await stack.enter_async_context(open_store(None, settings))
            await make_sessions(stores[name])
        for callers in CALLERS:
            measures = {name: partial(rate, store, callers, seconds) for name, store in stores.items()}
            title = f"appends a second, {kind}, {callers} callers"
            table = Comparison(title, "1/s", await take_turns(measures, rounds), beside=OFF)
            report.comparisons.append(table)
            report.goals.append(Goal(title, table.ratio(ON), SHARE))


async def rate(store: Store, callers: int, seconds: float) -> float:
    """Appends a second. What was stored is indexed before the next one is measured."""
    figures = await measure(lambda session_id: store.append_messages(session_id, [MESSAGE]), callers, seconds)
    if store._core.indexer.is_on:
        await until_complete(store)
    return figures["rate"]


async def until_complete(store: Store) -> None:
    while not (await store.search("flight", limit=1)).complete:
        pass


async def compare_pages(report: Report, kind: str, url: str, messages: int, rounds: int) -> None:
    """The first page of each word, and the same from the bare index."""
    async with open_store(url) as store:
        started = time.perf_counter()
        await fill(store, messages)
        await until_complete(store)
        took = time.perf_counter() - started
        report.notes.append(f"{kind}: {messages:,} messages were stored and indexed in {took:.0f} s")
        for word in FREQUENCY:
            measures: dict[str, Measure] = {
                "store.search": partial(milliseconds, partial(store.search, word)),
                "the bare index": partial(milliseconds, partial(ask_index, kind, url, word)),
            }
            title = f"first page of a {word} word, {messages:,} messages, {kind}"
            table = Comparison(title, "ms", await take_turns(measures, rounds), beside="the bare index")
            report.comparisons.append(table)
            if word in WANTED:
                report.goals.append(Goal(title, table.median("store.search"), WANTED[word], at_most=True))


async def fill(store: Store, messages: int) -> None:
    """Sessions of LENGTH messages, the same in each run."""
    chance = random.Random(1)
    vocabulary = [f"word{n}" for n in range(VOCABULARY)]
    weights = list(accumulate(1 / (n + 10) for n in range(VOCABULARY)))
    for start in range(0, messages, LENGTH):
        texts = []
        for n in range(start, start + LENGTH):
            words = chance.choices(vocabulary, cum_weights=weights, k=WORDS)
            words += [word for word, every in FREQUENCY.items() if n % every == 0]
            texts.append({"role": "user", "content": " ".join(words)})
        await store.create_session(f"filled {start}", messages=texts)


async def milliseconds(ask: Callable[[], Awaitable[object]]) -> float:
    started = time.perf_counter()
    await ask()
    return (time.perf_counter() - started) * 1000


async def ask_index(kind: str, url: str, word: str) -> None:
    """The ids of the latest entries that have the word, from the database alone."""
    if kind == "sqlite":
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.execute(BARE[kind], (f'"{owner_mark("")}" AND "{word}"',)).fetchall()
    else:
        with psycopg.connect(url) as postgres:
            postgres.execute(BARE[kind], (f"'{owner_mark('')}' & '{word}'",)).fetchall()
