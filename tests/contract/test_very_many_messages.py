"""More messages in one request than are worked on at once: planned in a thread, and answered in portions."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from runtime.errors import KeyReused
from runtime.store.messages import MANY_MESSAGES
from runtime.store.store import Store, open_store
from runtime.store.write.outcomes import Replaced
from tests.support.api_server import check, make, serving

pytestmark = pytest.mark.slow

COUNT = 2 * MANY_MESSAGES + 1
SENT: list[dict[str, Any]] = [{"role": "user", "content": str(number)} for number in range(COUNT)]


async def contents(store: Store) -> list[Any]:
    found: list[Any] = []
    while True:
        page = await store.list_messages("s", after=len(found), limit=1000)
        found += [message["content"] for message in page.messages]
        if not page.more:
            return found


async def test_they_are_stored_in_their_order(database_url: str) -> None:
    async with open_store(database_url) as store:
        await store.create_session("s", messages=SENT[:3])
        appended = await store.append_messages("s", SENT[3:])
        assert [receipt.seq for receipt in appended.messages] == list(range(4, COUNT + 1))  # type: ignore[union-attr]
        expected = [message["content"] for message in SENT]
        assert await contents(store) == expected
        last = await store.list_messages("s", last=5)
        assert [message["content"] for message in last.messages] == expected[-5:]
    async with open_store(database_url) as store:
        assert await contents(store) == expected


@pytest.mark.parametrize("same", [0, 5, 10, 11, 2500, COUNT - 1, COUNT])
async def test_a_beginning_that_is_the_same_is_kept(database_url: str, same: int) -> None:
    async with open_store(database_url) as store:
        await store.create_session("s", messages=SENT)
        wanted = [*SENT[:same], {"role": "user", "content": "new"}, *SENT[:3]]
        replaced = await store.replace_messages("s", wanted)
        assert isinstance(replaced, Replaced)
        seqs = [receipt.seq for receipt in replaced.messages]
        assert seqs == [*range(1, same + 1), *range(COUNT + 1, COUNT + 5)]
        found = await store.list_messages("s", last=6)
        assert [m["content"] for m in found.messages] == [m["content"] for m in wanted][-6:]
        shorter = await store.replace_messages("s", SENT[: same // 2])
        assert isinstance(shorter, Replaced)
        assert [receipt.seq for receipt in shorter.messages] == list(range(1, same // 2 + 1))


async def test_large_messages_are_compared_too(database_url: str) -> None:
    large = [{"role": "user", "content": letter * 300_000} for letter in "abcdefghijklmnopqrstuvwxyz"]
    async with open_store(database_url) as store:
        await store.create_session("s", messages=large)
        replaced = await store.replace_messages("s", [*large[:25], SENT[0]])
        assert [receipt.seq for receipt in replaced.messages] == [*range(1, 26), 27]  # type: ignore[union-attr]


async def test_w12_a_repeat_is_answered_as_the_first_request_was(database_url: str) -> None:
    async with serving(database_url, max_body_bytes=8_000_000) as client:
        await make(client)
        headers = {"Idempotency-Key": "k"}
        replies = [
            await check(
                await client.post("/sessions/s/messages", json={"messages": SENT}, headers=headers), 201
            )
            for _ in range(2)
        ]
        assert replies[0] == replies[1]
        assert [receipt["seq"] for receipt in replies[0]["messages"]] == list(range(1, COUNT + 1))
        stamps = {receipt["timestamp"] for receipt in replies[0]["messages"]}
        assert len(stamps) == 1
        page = await check(await client.get("/sessions/s/messages?last=1"))
        assert page["messages"][0]["timestamp"] in stamps


async def test_w12_another_request_under_the_key_is_refused(database_url: str) -> None:
    async with open_store(database_url) as store:
        await store.create_session("s")
        await store.append_messages("s", SENT, idempotency_key="k")
        # A change anywhere is another request.
        for place in (0, MANY_MESSAGES, COUNT - 1):
            other = [*SENT[:place], {"role": "user", "content": "other"}, *SENT[place + 1 :]]
            with pytest.raises(KeyReused):
                await store.append_messages("s", other, idempotency_key="k")
        for other in (SENT[:-1], [*SENT, SENT[0]], list(itertools.islice(SENT, 5))):
            with pytest.raises(KeyReused):
                await store.append_messages("s", other, idempotency_key="k")
        assert len(await contents(store)) == COUNT
