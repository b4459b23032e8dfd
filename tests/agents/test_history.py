"""What is read of a conversation to be sent to a model."""

from __future__ import annotations

from typing import Any

from runtime.agents.history import find_caller, read_decisions, read_history
from runtime.config import Settings
from runtime.store.store import Store, open_store
from tests.agents.test_chat_messages import call, calling, tool, user

Json = Any


async def read(store: Store, tokens: int) -> list[Json]:
    return [message["content"] for message in await read_history(store, "s", "", tokens)]


async def test_the_newest_messages_that_fit_are_read(database_url: str) -> None:
    async with open_store(database_url, Settings()) as store:
        log = [user(str(n)) | {"token_count": 10} for n in range(250)]
        await store.create_session("s", messages=log)
        assert await read(store, 2500) == [str(n) for n in range(250)]
        assert await read(store, 2499) == [str(n) for n in range(1, 250)]
        assert await read(store, 1005) == [str(n) for n in range(150, 250)]
        assert await read(store, 1) == ["249"]


async def test_where_nobody_counted_tokens_they_are_taken_from_the_length(database_url: str) -> None:
    async with open_store(database_url, Settings()) as store:
        await store.create_session("s", messages=[user("x" * 4000), user("y")])
        assert await read(store, 1200) == ["x" * 4000, "y"]
        assert await read(store, 1000) == ["y"]


async def test_a_session_without_messages_has_no_history(database_url: str) -> None:
    async with open_store(database_url, Settings()) as store:
        await store.create_session("s")
        assert await read(store, 100) == []


async def test_results_are_read_with_their_call(database_url: str) -> None:
    async with open_store(database_url, Settings()) as store:
        made = [calling(call("a"), call("b")), tool("a", "1" * 400), tool("b", "2" * 400)]
        await store.create_session("s", messages=[user("hi"), *made])
        assert await read(store, 1) == ["hi", None, "1" * 400, "2" * 400]


async def test_the_question_is_read_however_long_its_results_are(database_url: str) -> None:
    async with open_store(database_url, Settings()) as store:
        made = [message for n in range(3) for message in (calling(call(str(n))), tool(str(n), "x" * 4000))]
        await store.create_session("s", messages=[user("first"), user("THE QUESTION"), *made])
        assert await read(store, 1500) == ["THE QUESTION", None, "x" * 4000]
        assert await read(store, 100_000) == ["first", "THE QUESTION", *[None, "x" * 4000] * 3]


async def test_what_became_of_approvals_is_read(database_url: str) -> None:
    async with open_store(database_url, Settings()) as store:
        await store.create_session("s")
        for call_id, decision in (("a", "edit"), ("b", "approve")):
            edit = {"path": call_id} if decision == "edit" else None
            await store.create_approval("s", call_id, "save", {})
            await store.decide_approval("s", call_id, decision, modified_arguments=edit)
        await store.create_approval("s", "c", "save", {}, expires_in=0)
        log = [{"role": "assistant", "content": None, "tool_calls": [{}]}]
        decisions = await read_decisions(store, "s", "", log)
        assert decisions.edited == {("a", "save"): {"path": "a"}}
        assert decisions.expired == {("c", "save")}
        nothing = await read_decisions(store, "s", "", [])
        assert not nothing.edited, "there is no call to look for"


async def test_the_agent_that_made_a_call_is_found(database_url: str) -> None:
    async with open_store(database_url, Settings()) as store:
        made = {**calling(call("a")), "metadata": {"agent": "coder"}}
        await store.create_session("s", messages=[made, calling(call("b")), user("hi")])
        assert await find_caller(store, "s", "", "a") == "coder"
        assert await find_caller(store, "s", "", "b") is None
        assert await find_caller(store, "s", "", "c") is None
