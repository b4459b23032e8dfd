"""A change of a session's metadata is merged with what is stored (RFC 7396)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from runtime.errors import InvalidInput
from runtime.models import LEFT_OUT
from runtime.store.merge_patch import merge
from runtime.store.store import Store
from runtime.store.write import loader
from runtime.store.write.rules import sessions
from tests.support.two_instances import two_instances

LARGE = "x" * 100_000

# The examples of RFC 7396, appendix A, whose original is an object.
EXAMPLES = [
    ('{"a":"b"}', '{"a":"c"}', '{"a":"c"}'),
    ('{"a":"b"}', '{"b":"c"}', '{"a":"b","b":"c"}'),
    ('{"a":"b"}', '{"a":null}', "{}"),
    ('{"a":"b","b":"c"}', '{"a":null}', '{"b":"c"}'),
    ('{"a":["b"]}', '{"a":"c"}', '{"a":"c"}'),
    ('{"a":"c"}', '{"a":["b"]}', '{"a":["b"]}'),
    ('{"a":{"b":"c"}}', '{"a":{"b":"d","c":null}}', '{"a":{"b":"d"}}'),
    ('{"a":[{"b":"c"}]}', '{"a":[1]}', '{"a":[1]}'),
    ('{"e":null}', '{"a":1}', '{"e":null,"a":1}'),
    ("{}", '{"a":{"bb":{"ccc":null}}}', '{"a":{"bb":{}}}'),
    # Numbers keep their digits, in what is stored as in what is sent.
    ('{"a":1.10,"b":123456789012345678901}', '{"c":1e400}', '{"a":1.10,"b":123456789012345678901,"c":1e400}'),
]


@pytest.mark.parametrize(("stored", "patch", "expected"), EXAMPLES)
def test_the_examples_of_the_rfc(stored: str, patch: str, expected: str) -> None:
    assert merge(stored, patch) == expected


async def metadata(store: Store, session_id: str = "s") -> Any:
    return (await store.get_session(session_id)).metadata


async def test_what_a_change_does_not_name_stays(store: Store) -> None:
    await store.create_session("s", metadata={"team": "travel", "trip": {"to": "Lisbon", "nights": 3}})
    changed = await store.update_session("s", metadata={"trip": {"nights": None, "by": "train"}, "n": 1})
    expected = {"team": "travel", "trip": {"to": "Lisbon", "by": "train"}, "n": 1}
    assert changed.session.metadata == expected == await metadata(store)
    assert (await store.update_session("s", metadata={})).version == changed.version
    assert (await store.update_session("s", metadata={"absent": None})).version == changed.version
    await store.update_session("s", metadata=None)
    assert await metadata(store) == {}


async def test_changes_at_the_same_time_all_take_effect(store: Store) -> None:
    await store.create_session("s")
    await asyncio.gather(*(store.update_session("s", metadata={str(n): n}) for n in range(50)))
    assert await metadata(store) == {str(n): n for n in range(50)}


async def test_changes_by_two_instances_all_take_effect(postgres_url: str) -> None:
    async with two_instances(postgres_url) as stores:
        await asyncio.gather(
            *(stores[n % 2].update_session("s", metadata={str(n): n}) for n in range(40)),
        )
        for store in stores:
            assert await metadata(store) == {str(n): n for n in range(40)}


async def test_large_metadata_is_merged_a_batch_at_a_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"s{n}" for n in range(6)]
    for name in names:
        await store.create_session(name, metadata={"large": LARGE})
    # Room for one of them in each batch.
    monkeypatch.setattr(loader, "MERGED_BYTES", 1)
    outcomes = await asyncio.gather(*(store.update_session(name, metadata={"small": 1}) for name in names))
    assert all(outcome.session.metadata == {"large": LARGE, "small": 1} for outcome in outcomes)
    assert [await metadata(store, name) for name in names] == [{"large": LARGE, "small": 1}] * 6


async def test_a_change_of_anything_else_loads_no_large_metadata(store: Store) -> None:
    await store.create_session("s", metadata={"large": LARGE})
    renamed = await store.update_session("s", title="t")
    assert renamed.session.encoded_metadata != LEFT_OUT
    await store.update_session("s", metadata=None)
    assert await metadata(store) == {}


async def test_merging_does_not_grow_without_bound(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_METADATA", 1000)
    await store.create_session("s", metadata={"a": "x" * 900})
    with pytest.raises(InvalidInput, match="at most 1000 bytes of metadata in all, got 1008"):
        await store.update_session("s", metadata={"b": "x" * 93})
    # What is larger already may shrink.
    await store.create_session("t", metadata={"a": "x" * 2000, "b": 1})
    await store.update_session("t", metadata={"b": None})
    assert await metadata(store, "t") == {"a": "x" * 2000}


async def test_a_repeated_change_is_answered_as_the_first(store: Store) -> None:
    await store.create_session("s", metadata={"large": LARGE})
    first = await store.update_session("s", metadata={"a": 1}, idempotency_key="k")
    await store.update_session("s", metadata={"a": 2})
    again = await store.update_session("s", metadata={"a": 1}, idempotency_key="k")
    assert (first.replayed, again.replayed) == (False, True)
    assert await metadata(store) == {"large": LARGE, "a": 2}
