"""What is read of a conversation to be sent to a model."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from runtime.agents.context_window import TOO_LONG, read_decisions, read_history
from runtime.agents.prompt import Decisions, chat_messages
from runtime.config import Settings
from runtime.errors import HistoryTooLarge
from runtime.store.store import Store, open_store
from tests.agents.test_prompt import call, calling, tool, user

Json = Any


MIB = 2**20


async def read(store: Store, tokens: int, size: int = 4 * MIB) -> list[Json]:
    return [message["content"] for message in await read_history(store, "s", "", tokens, size)]


def large(content: Json = "x" * MIB, **fields: Json) -> Json:
    """A message of a megabyte, in one token as its sender says."""
    return {"role": "user", "content": content, "token_count": 1, **fields}


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


async def test_bytes_are_bounded_whatever_is_said_of_tokens(database_url: str) -> None:
    log = [large(f"{n}" + "x" * MIB) for n in range(12)]
    async with open_store(database_url, Settings(cache_bytes=0)) as store:
        await store.create_session("s")
        for message in log:
            await store.append_messages("s", [message])
        read_bytes = []
        list_messages = store.list_messages

        async def counted(*args: Json, **options: Json) -> Json:
            page = await list_messages(*args, **options)
            read_bytes.append(sum(len(bytes(raw)) for raw in page.encoded))
            return page

        store.list_messages = counted  # type: ignore[method-assign]
        assert [each[:2] for each in await read(store, 100_000)] == ["9x", "10", "11"]
        assert sum(read_bytes) < 6 * MIB, "no more is read than is sent, or hardly"
        assert len(await read(store, 100_000, MIB // 2)) == 1


async def test_a_message_beyond_the_bytes_is_read_alone(database_url: str) -> None:
    async with open_store(database_url, Settings()) as store:
        await store.create_session("s", messages=[user("first"), large("x" * MIB)])
        assert [len(each) for each in await read(store, 100_000, 1000)] == [MIB]
        await store.append_messages("s", [{"role": "assistant", "content": "y"}])
        assert [len(each) for each in await read(store, 100_000, 1000)] == [MIB, 1]


async def test_results_whose_calls_do_not_fit_are_left_out(database_url: str) -> None:
    async with open_store(database_url, Settings()) as store:
        made = [calling(call("a"), call("b")), tool("a", "x" * MIB), tool("b", "y" * 1000)]
        await store.create_session("s", messages=[user("first"), *made, user("and now?")])
        assert await read(store, MIB, MIB // 2) == ["and now?"]
        assert len(await read(store, MIB, 2 * MIB)) == 5


async def test_results_that_leave_no_room_for_their_calls_end_the_turn(database_url: str) -> None:
    async with open_store(database_url, Settings()) as store:
        made = [calling(call("a"), call("b")), tool("a", "x" * MIB), tool("b", "y" * 1000)]
        await store.create_session("s", messages=[user("first"), *made])
        with pytest.raises(HistoryTooLarge, match="more than the 524288 bytes of"):
            await read(store, 100_000, MIB // 2)


@pytest.mark.parametrize("role", ["user", "system", "assistant", "tool"])
async def test_a_long_list_is_sent_as_it_is_stored(database_url: str, role: str) -> None:
    parts = [{"type": "text", "text": "a", "n": n} for n in (1e308, 2**70, 0.1, None, True)] * 100
    message = {"role": role, "content": parts, "tool_call_id": "c", "extra": [1e308] * 1000}
    async with open_store(database_url, Settings()) as store:
        await store.create_session("s", messages=[user("hi"), calling(call("c")), message])
        log = await read_history(store, "s", "", 100_000, 4 * MIB)
    [system, *sent] = json.loads(msgspec.json.encode(chat_messages("", log, Decisions())))
    if role == "system":
        assert system["content"] == "\n".join(["a"] * 500)
    else:
        assert parts in [each["content"] for each in sent]
    assert "extra" not in log[-1]


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
        calls = [*({"id": id} for id in "abcd"), {}, 7, {"id": "a\0"}]
        log = [{"role": "assistant", "content": None, "tool_calls": calls}]
        decisions = await read_decisions(store, "s", "", log, MIB)
        assert decisions.edited == {("a", "save"): '{"path":"a"}'}
        assert decisions.expired == {("c", "save")}
        nothing = await read_decisions(store, "s", "", [], MIB)
        assert not nothing.edited, "there is no call to look for"


async def test_edited_arguments_are_read_as_far_as_they_fit(database_url: str) -> None:
    async with open_store(database_url, Settings()) as store:
        await store.create_session("s")
        for n in range(4):
            await store.create_approval("s", str(n), "save", {})
            edit = {"path": "x" * 1000 * (n + 1)}
            await store.decide_approval("s", str(n), "edit", modified_arguments=edit)
        log = [calling({"id": str(n)}) for n in range(4)]
        decisions = await read_decisions(store, "s", "", log, 8000)
        lengths = {id: len(text) for (id, _), text in decisions.edited.items()}
        assert lengths == {"3": 4011, "2": 3011, "1": len(TOO_LONG), "0": len(TOO_LONG)}
