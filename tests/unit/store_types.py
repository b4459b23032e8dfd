"""The store as a type checker sees it: `test_types.py` runs mypy on this module."""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

from runtime import Accepted, Appended, Durability, MessageDict, Replaced, Store, open_store

GREETING: MessageDict = {"role": "user", "content": "hello"}


async def outcomes(store: Store, durability: Durability | None) -> None:
    assert_type(await store.append_messages("s", [GREETING]), Appended)
    assert_type(await store.append_messages("s", [GREETING], if_match=3), Appended)
    assert_type(await store.append_messages("s", [GREETING], durability="committed"), Appended)
    assert_type(await store.append_messages("s", [GREETING], durability="buffered"), Accepted)
    assert_type(await store.append_messages("s", [GREETING], durability=durability), Appended | Accepted)
    # A version is compared in the transaction: a buffered write with one is committed.
    versioned = await store.append_messages("s", [GREETING], durability="buffered", if_match=3)
    assert_type(versioned, Appended | Accepted)
    assert_type(await store.replace_messages("s", [GREETING], create=True), Replaced)
    assert_type(await store.replace_messages("s", [GREETING], durability="committed"), Replaced)
    assert_type(await store.replace_messages("s", [GREETING], durability="buffered"), Accepted)
    assert_type(await store.replace_messages("s", [], durability=durability), Replaced | Accepted)


async def messages(store: Store, stored: list[dict[str, str]]) -> None:
    await store.append_messages("s", stored)
    await store.append_messages("s", [{"role": "user", "content": "hello", "colour": "blue"}])
    await store.create_session("s", messages=[GREETING])
    await store.append_messages("s", "hello")  # type: ignore[arg-type]
    await store.append_messages("s", ["hello"])  # type: ignore[list-item]


async def mistakes(store: Store) -> None:
    await store.create_session("s", ownr="alice")  # type: ignore[call-arg]
    await store.append_messages("s", [GREETING], ownr="alice")  # type: ignore[call-overload]
    wrong: MessageDict = {"role": "visitor"}  # type: ignore[typeddict-item]
    await store.append_messages("s", [wrong])
    async with open_store(Path("data/agents.db")):  # type: ignore[arg-type]
        pass
