"""The search, on both databases, and beside a search in plain Python."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.config import Settings
from runtime.errors import InvalidInput, SearchOff
from runtime.models import Role, SearchPage
from runtime.store.store import Store, open_store
from tests.migrations.catalogue import query
from tests.support.running_turns import Clock, open_timed, user
from tests.support.two_instances import two_instances


@pytest.fixture
async def store(database_url: str, clock: Clock) -> AsyncIterator[Store]:
    async with open_timed(database_url, clock) as store:
        yield store


def places(page: SearchPage) -> list[tuple[str, int]]:
    return [(hit.session_id, hit.seq) for hit in page.hits]


async def say(store: Store, session_id: str, *texts: str, owner: str = "") -> None:
    await store.create_session(session_id, owner=owner, if_missing=True)
    await store.append_messages(session_id, [user(text) for text in texts], owner=owner)


# What is found.


async def test_words_phrases_and_prefixes_are_found(store: Store) -> None:
    await say(store, "s", "Look at src/app_main.py", "日本語のテスト", "Straße")
    found = {
        "app": 1,
        "main*": 1,
        '"src app"': 1,
        "APP look": 1,
        "src/app": 1,
        "本": 2,
        "日本": 2,
        "STRASSE": 3,
    }
    for words, seq in found.items():
        assert places(await store.search(words)) == [("s", seq)], words
    for words in ("ap", '"app src"', "main py look gone", "本日"):
        assert places(await store.search(words)) == [], words


async def test_parts_calls_and_results_are_searched(store: Store) -> None:
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "read_file", "arguments": '{"path": "zebra.py"}'},
    }
    await store.create_session("s", title="Animals")
    await store.append_messages(
        "s",
        [
            {
                "role": "user",
                "content": [{"type": "text", "text": "a lion"}, {"type": "image_url", "image_url": {}}],
            },
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "import giraffe"},
        ],
    )
    assert [places(await store.search(word)) for word in ("lion", "zebra", "read", "giraffe", "image")] == [
        [("s", 1)],
        [("s", 2)],
        [("s", 2)],
        [("s", 3)],
        [],
    ]
    [hit] = (await store.search("giraffe")).hits
    assert (hit.title, hit.role, hit.snippet, hit.matches) == ("Animals", "tool", "import giraffe", [(7, 14)])


async def test_hits_are_those_of_the_owner_session_role_agent_and_time(store: Store, clock: Clock) -> None:
    began = clock.now
    for n, (owner, session_id) in enumerate([("a", "s"), ("a", "t"), ("b", "s")]):
        clock.jump(n)
        await store.create_session(session_id, owner=owner, agent=f"agent {session_id}")
        await say(store, session_id, "word", owner=owner)
        await store.append_messages(session_id, [{"role": "assistant", "content": "word"}], owner=owner)
    later = began + timedelta(seconds=1)
    wanted: list[tuple[dict[str, Any], list[tuple[str, int]]]] = [
        ({}, [("t", 2), ("t", 1), ("s", 2), ("s", 1)]),
        ({"session_id": "s"}, [("s", 2), ("s", 1)]),
        ({"role": "user"}, [("t", 1), ("s", 1)]),
        ({"agent": "agent t"}, [("t", 2), ("t", 1)]),
        ({"after": later}, [("t", 2), ("t", 1)]),
        ({"before": later}, [("s", 2), ("s", 1)]),
        ({"session_id": "gone"}, []),
        ({"role": "tool"}, []),
    ]
    for filters, found in wanted:
        assert places(await store.search("word", owner="a", **filters)) == found, filters
    assert places(await store.search("word", owner="c")) == []


async def test_pages_have_every_hit_once(store: Store, clock: Clock) -> None:
    for n in range(7):
        clock.jump(1)
        await say(store, f"s{n % 2}", f"word {n}", "other")
    seen: list[tuple[str, int]] = []
    cursor: str | None = None
    for limit in itertools.cycle((1, 2)):
        page = await store.search("word", limit=limit, cursor=cursor)
        seen += places(page)
        if (cursor := page.next_cursor) is None:
            break
    assert len(seen) == len(set(seen)) == 7
    assert seen == places(await store.search("word"))


@pytest.mark.parametrize("cursor", ["", "x", "!!!", "AAAA", "_________w", "é"])
async def test_a_cursor_that_there_cannot_be_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(InvalidInput, match="next_cursor"):
        await store.search("word", cursor=cursor)


# What is gone is not found, and leaves no word.


async def test_what_is_cut_deleted_or_erased_is_not_found(store: Store) -> None:
    await say(store, "s", "word one", "word two", "word three")
    await store.truncate_messages("s", after=2)
    assert places(await store.search("word")) == [("s", 2), ("s", 1)]
    await store.replace_messages("s", [user("word one"), user("fresh")])
    assert places(await store.search("word")) == [("s", 1)]
    await store.delete_session("s")
    assert places(await store.search("word")) == []
    await store.restore_session("s")
    assert places(await store.search("word")) == [("s", 1)]
    await store.delete_session("s", hard=True)
    assert places(await store.search("word")) == []


async def test_erased_words_are_in_no_table(store: Store, database_url: str) -> None:
    await say(store, "gone", *["zqxmarker first", "zqxmarker second"] * 20)
    await say(store, "kept", "keeper", "zqxmarker cut")
    assert (await store.search("zqxmarker")).complete
    await store.truncate_messages("kept", after=1)
    await store.delete_session("gone", hard=True)
    async with asyncio.timeout(30):
        while any(b"zqxmarker" in value for value in cells(database_url)):
            await store.search("keeper")
    assert places(await store.search("keeper")) == [("kept", 1)]


def cells(url: str) -> Iterator[bytes]:
    """The content of every table that the search has."""
    if url.startswith("postgres"):
        tables = [("search_entries", "words"), ("search_queue", "ranges"), ("messages", "content")]
    else:
        tables = [("search_entries", "words"), ("search_words_data", "block"), ("messages", "content")]
    for table, column in tables:
        for (value,) in query(url, f"SELECT {column} FROM {table}"):
            yield value if isinstance(value, bytes) else str(value).encode()


# What is indexed when.


async def test_messages_from_before_are_indexed_in_the_background(database_url: str) -> None:
    async with open_store(None, Settings(db_url=database_url, search=False)) as store:
        for n in range(3):
            await say(store, f"s{n}", *(f"word {n}" for n in range(350)))
        with pytest.raises(SearchOff, match="AGENT_RUNTIME__SEARCH=off"):
            await store.search("word")
    async with open_store(database_url) as store:
        page = await until_complete(store, "349")
        assert places(page) == [("s2", 350), ("s1", 350), ("s0", 350)]
        await store.delete_session("s1", hard=True)
        await say(store, "s0", "349")
        assert places(await store.search("349")) == [("s0", 351), ("s2", 350), ("s0", 350)]


async def until_complete(store: Store, words: str) -> SearchPage:
    async with asyncio.timeout(60):
        while not (page := await store.search(words)).complete:
            pass
    return page


async def test_what_a_process_left_in_the_queue_is_indexed_by_the_next(
    database_url: str, clock: Clock
) -> None:
    async with open_timed(database_url, clock) as store:
        await say(store, "s", "first")
        assert (await store.search("first")).complete
        await store._core.indexer.close()
        await say(store, "s", "second")
    async with open_timed(database_url, clock) as store:
        # It might be another instance's that is about to do it.
        assert places(await store.search("second")) == []
        await say(store, "s", "third")
        assert places(await store.search("third")) == [("s", 3)]
    clock.jump(60)
    async with open_timed(database_url, clock) as store:
        assert places(await until_complete(store, "second")) == [("s", 2)]
    assert query(database_url, "SELECT count(*) FROM search_queue") == [(0,)]


async def test_what_one_instance_stores_another_one_finds(postgres_url: str) -> None:
    async with two_instances(postgres_url) as (here, there), asyncio.timeout(30):
        await say(here, "s", "spoken here")
        while not (await there.search("spoken")).hits:
            pass


async def test_a_message_without_words_and_one_of_very_many(store: Store) -> None:
    await say(store, "s", "", "!!!", " ".join(f"w{n}" for n in range(30_000)), "x" * 200_000)
    assert places(await store.search("w29999")) == [("s", 3)]
    assert places(await store.search("x" * 100)) == [("s", 4)]


# Beside a search in plain Python: any texts, cut, deleted, restored and erased, found by any query.


class Said(NamedTuple):
    seq: int
    at: datetime
    role: Role
    text: str


OWNERS, SESSIONS, ROLES = ("", "bob"), ("s", "t"), ("user", "assistant")
WORDS = ("app", "App", "ap", "main", "日", "本語", "é", "x_y", "1.5", "😀", "zz")
PLAIN = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(" ".join)
APPEND = st.tuples(
    st.just("append"), st.lists(st.tuples(st.sampled_from(ROLES), PLAIN), min_size=1, max_size=3)
)
CUT = st.tuples(st.just("cut"), st.integers(0, 6))
OTHER = st.tuples(st.sampled_from(["delete", "restore", "erase", "fork", "erase owner"]), st.none())
STEPS = st.lists(
    st.tuples(st.sampled_from(OWNERS), st.sampled_from(SESSIONS), st.one_of(APPEND, APPEND, CUT, OTHER)),
    max_size=8,
)
QUERIES = st.lists(
    st.one_of(
        st.sampled_from([word for word in WORDS if word != "😀"]),
        st.sampled_from(["a*", "m*", "zz*", "日*"]),
        PLAIN.filter(lambda text: text.replace("😀", "").strip()).map(lambda text: f'"{text}"'),
    ),
    min_size=1,
    max_size=2,
).map(" ".join)
FILTERS = st.fixed_dictionaries(
    {"owner": st.sampled_from(OWNERS)},
    optional={"session_id": st.sampled_from(SESSIONS), "role": st.sampled_from(ROLES)},
)


RUNS = itertools.count()


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, questions=st.lists(st.tuples(QUERIES, FILTERS), min_size=1, max_size=3))
async def test_r8_a_search_finds_what_plain_python_finds(
    store: Store, clock: Clock, steps: list[Any], questions: list[tuple[str, dict[str, Any]]]
) -> None:
    run = next(RUNS)
    model: dict[tuple[str, str], tuple[bool, list[Said]]] = {}
    for owner, session_id, step in steps:
        clock.jump(0.001)
        await take(store, model, clock.now, (f"{owner}{run}", session_id), step)
    for words, filters in questions:
        asked = {**filters, "owner": f"{filters['owner']}{run}"}
        page = await store.search(words, limit=100, **asked)
        assert page.complete
        assert sorted(places(page)) == sorted(expected(model, words, **asked)), (words, asked)
        # A fork has messages of the same moments as its source.
        order = [(hit.timestamp, hit.seq) for hit in page.hits]
        assert [at for at, _ in order] == sorted((at for at, _ in order), reverse=True)


async def take(
    store: Store,
    model: dict[tuple[str, str], tuple[bool, list[Said]]],
    now: datetime,
    key: tuple[str, str],
    step: Any,
) -> None:
    """One step, in the store and in the model."""
    (owner, session_id), (kind, value) = key, step
    live, history = model.get(key, (False, []))
    if kind == "append":
        if key not in model:
            await store.create_session(session_id, owner=owner)
            live = True
        if live:
            messages = [{"role": role, "content": text} for role, text in value]
            done = await store.append_messages(session_id, messages, owner=owner)
            history = history + [
                Said(receipt.seq, now, role, text)
                for receipt, (role, text) in zip(done.messages, value, strict=True)
            ]
            model[key] = (True, history)
    elif kind == "cut" and live:
        await store.truncate_messages(session_id, after=value, owner=owner)
        model[key] = (True, [said for said in history if said.seq <= value])
    elif kind == "restore" and key in model:
        await store.restore_session(session_id, owner=owner)
        model[key] = (True, history)
    elif kind == "delete" and live:
        await store.delete_session(session_id, owner=owner)
        model[key] = (False, history)
    elif kind == "fork" and live:
        fork = f"{session_id}{len(model)}{now.microsecond}"
        await store.fork_session(session_id, fork, owner=owner)
        model[owner, fork] = (True, history)
    elif kind == "erase owner":
        await store.erase_owner(owner, nobody=not owner)
        for each in [each for each in model if each[0] == owner]:
            del model[each]
    elif kind == "erase" and live:
        await store.delete_session(session_id, hard=True, owner=owner)
        del model[key]


def expected(
    model: dict[tuple[str, str], tuple[bool, list[Said]]],
    words: str,
    *,
    owner: str,
    session_id: str | None = None,
    role: str | None = None,
) -> list[tuple[str, int]]:
    found = [
        (said.at, said.seq, each)
        for (whose, each), (live, history) in model.items()
        if live and whose == owner and session_id in (None, each)
        for said in history
        if role in (None, said.role) and fits(words, said.text)
    ]
    return [(session, seq) for _, seq, session in found]


def fits(words: str, text: str) -> bool:
    """Whether a text has all terms of a query: by joining words, not by looking at one after the other."""
    line = f" {' '.join(plain_words(text))} "
    for n, part in enumerate(words.split('"')):
        for term in [part] if n % 2 else part.split():
            wanted = " ".join(plain_words(term))
            if wanted and f" {wanted}" + ("" if term.endswith("*") else " ") not in line:
                return False
    return True


def plain_words(text: str) -> Iterator[str]:
    for is_word, characters in itertools.groupby(text, str.isalnum):
        if is_word:
            run = "".join(f" {each} " if each > "\u2e80" else each for each in characters)
            yield from run.casefold().split()
