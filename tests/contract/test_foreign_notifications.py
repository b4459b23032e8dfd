"""What no instance of ours notified: the channel is open to all who may connect to the database."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from runtime.store.records import SessionKey
from tests.contract.test_feed import MOMENT, append, next_change, next_messages, user
from tests.support.two_instances import two_instances

GARBAGE = [
    *("", "x", "🌇", "null", "7", "{}", "[]", "[null,null]", '["x"]', '["x",7]', '["x",null,1]'),
    *("[" * 7000, '["x",' + "[" * 7000, '["x",[[1,2,3]]]', '["x",[[1,2,3,["agent"],5]]]', '["x",{"a":[]}]'),
    *('["x",[[1,2,"3",[]]]]', '["x",[[1.5,2,3,[]]]]', '["x",[[-1,2,3,[]]]]', '["x",[[1,2,3,[7]]]]'),
    *(f'["x",[[1,2,{10**4000},[]]]]', '["x",[[1,2,1e400,[]]]]', '["x",[[1,2,3,"agent"]]]', "NaN", "\\ud800"),
]


async def test_garbage_on_the_channel_is_one_line_of_log(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with two_instances(postgres_url) as (here, there), here.follow("s") as follower:
        assert await follower.events(MOMENT) == []
        await notify(postgres_url, *GARBAGE * 2)
        await append(there, 1)
        assert await next_messages(follower, 1) == [1]
    # Each instance logs one. A busy machine may have slow statements besides.
    logged = [
        (record.name, record.exc_info) for record in caplog.records if record.name != "agent_runtime.db"
    ]
    assert logged == [("agent_runtime.subscriptions", None)] * 2


async def test_a_notification_that_lies_holds_nobody_up(postgres_url: str) -> None:
    async with two_instances(postgres_url) as (here, there), here.follow("s") as follower:
        id = (await here._core.reader.get_head(SessionKey("", "s"))).id
        for what in ("[]", '["agent"]', '["deleted"]', '["unheard of"]'):
            await notify(postgres_url, f'["x",[[{id},{2**63 - 1},{2**63 - 1},{what}]]]')
            await asyncio.sleep(0)
            await follower.events(MOMENT)
            version = (await there.append_messages("s", [user(what)])).version
            assert (await next_messages(follower, version - 1))[-1] == version - 1
        await there.switch_agent("s", "coder")
        changed = await next_change(follower)
        assert (changed.version, "agent" in changed.what) == (version + 1, True)


async def notify(url: str, *payloads: str) -> None:
    admin = await asyncpg.connect(url)
    try:
        for payload in payloads:
            await admin.execute("SELECT pg_notify('agent_runtime', $1)", payload)
    finally:
        await admin.close()
