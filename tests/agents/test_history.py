"""What a model is sent of a conversation: of any log, something that every model accepts."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from runtime.agents.history import INTERRUPTED, chat_messages, read_edited, read_history
from runtime.config import Settings
from runtime.store.store import Store, open_store

Json = Any

SYSTEM = {"role": "system", "content": "Be brief."}


def user(content: Json) -> Json:
    return {"role": "user", "content": content}


def says(content: Json, **more: Json) -> Json:
    return {"role": "assistant", "content": content, **more}


def call(call_id: str, name: str = "look", arguments: str = "{}") -> Json:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def calling(*calls: Json, content: str | None = None) -> Json:
    return says(content, tool_calls=list(calls))


def tool(call_id: str, content: Json = "seen", **more: Json) -> Json:
    return {"role": "tool", "tool_call_id": call_id, "content": content, **more}


def sent(*log: Json, edited: dict[tuple[str, str], Json] | None = None) -> list[Json]:
    """What is sent of the log, behind the instructions."""
    first, *rest = chat_messages("Be brief.", log, edited or {})
    assert first == SYSTEM
    return rest


def test_a_conversation_is_sent_as_it_stands() -> None:
    log = [user("hi"), calling(call("a"), call("b")), tool("a"), tool("b"), says("Done.")]
    assert sent(*log) == log


def test_what_only_we_know_is_left_out() -> None:
    ours = {"seq": 1, "timestamp": "2026-11-21T00:00:00Z", "token_count": 3, "metadata": {}, "mine": 1}
    log = [{**user("hi"), **ours}, {**says("Hello."), **ours}, {**user("ho"), **ours}]
    assert sent(*log) == [user("hi"), says("Hello."), user("ho")]


def test_results_come_in_the_order_of_their_calls() -> None:
    log = [user("hi"), calling(call("a"), call("b")), tool("b", "2"), tool("a", "1")]
    assert sent(*log)[2:] == [tool("a", "1"), tool("b", "2")]


def test_a_call_without_a_result_gets_one_that_says_so() -> None:
    log = [user("hi"), calling(call("a"), call("b")), tool("b"), user("Go on."), calling(call("c"))]
    told = sent(*log)[1:]
    assert [m["content"] for m in told if m["role"] == "tool"] == [INTERRUPTED, "seen", INTERRUPTED]
    assert [m["role"] for m in told] == ["assistant", "tool", "tool", "user", "assistant", "tool"]


def test_a_result_that_came_too_late_is_left_out() -> None:
    log = [user("hi"), calling(call("a")), user("Forget it."), tool("a", "late")]
    assert [m["content"] for m in sent(*log)] == ["hi", None, INTERRUPTED, "Forget it."]


def test_results_of_no_call_are_left_out() -> None:
    assert sent(tool("x"), user("hi"), tool("y"), says("Hello."), tool("z")) == [user("hi"), says("Hello.")]


def test_an_id_that_is_used_again_has_its_own_result_each_time() -> None:
    log = [user("hi"), calling(call("c")), tool("c", "1"), calling(call("c")), tool("c", "2")]
    assert sent(*log) == log


def test_an_answer_that_says_nothing_is_left_out() -> None:
    assert sent(user("hi"), says(""), says(None), user("ho")) == [user("hi"), user("ho")]


def test_calls_of_a_form_that_is_not_ours_are_left_out() -> None:
    strange = [1, {}, {"id": 1}, {"id": "a"}, {"id": "a", "function": {"name": "x", "arguments": {}}}]
    assert sent(user("hi"), says("Well.", tool_calls=strange)) == [user("hi"), says("Well.")]
    mixed = says("Well.", tool_calls=[*strange, call("c")])
    assert sent(mixed, tool("c")) == [calling(call("c"), content="Well."), tool("c")]


def test_an_edited_call_stands_as_it_was_run() -> None:
    edited = {("c", "save"): {"path": "b"}}
    log = [calling(call("c", "look", '{"path":"a"}')), tool("c"), calling(call("c", "save")), tool("c")]
    first, _, second, _ = sent(*log, edited=edited)
    assert first["tool_calls"] == [call("c", "look", '{"path":"a"}')]
    assert second["tool_calls"] == [call("c", "save", '{"path":"b"}')]


def test_a_log_that_begins_in_the_middle_begins_with_a_question() -> None:
    cut = [calling(call("a")), tool("a"), says("Done."), user("hi"), says("Hello.")]
    assert sent(*cut) == [user("hi"), says("Hello.")]


def test_a_preface_before_the_first_question_is_kept() -> None:
    log = [{"role": "developer", "content": "The project is old."}, user("hi")]
    assert sent(*log) == log


def test_parts_are_sent_as_they_are() -> None:
    parts = [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "data:"}}]
    assert sent(user(parts)) == [user(parts)]


IDS = st.sampled_from(["a", "b", "c"])
CONTENTS = (
    st.none() | st.sampled_from(["", "x"]) | st.lists(st.just({"type": "text", "text": "x"}), max_size=1)
)
CALLS = st.builds(call, IDS, arguments=st.sampled_from(["", "{}", "{"])) | st.sampled_from(
    [None, {}, {"id": "a"}, {"id": "a", "function": {"name": "look"}}]
)
EXTRAS = st.fixed_dictionaries({}, optional={"name": st.just("n"), "seq": st.integers(), "mine": st.none()})
MESSAGES = st.one_of(
    st.builds(lambda content, more: {**user(content), **more}, CONTENTS, EXTRAS),
    st.builds(lambda content, more: {**says(content), **more}, CONTENTS, EXTRAS),
    st.builds(lambda calls, content: says(content, tool_calls=calls), st.lists(CALLS, max_size=3), CONTENTS),
    st.builds(lambda id, content, more: {**tool(id, content), **more}, IDS, CONTENTS, EXTRAS),
    st.sampled_from([{"role": "system", "content": "s"}, {"role": "developer", "content": "d"}]),
    # Stored by others: a result of nothing.
    st.just({"role": "tool", "content": "x"}),
)
KNOWN = {"role", "content", "name", "tool_calls", "tool_call_id"}


@given(st.lists(MESSAGES, max_size=12), st.dictionaries(st.tuples(IDS, st.just("look")), st.just({"e": 1})))
def test_of_any_log_comes_what_models_accept(log: list[Json], edited: dict[tuple[str, str], Json]) -> None:
    before = copy.deepcopy(log)
    told = chat_messages("Be brief.", log, edited)
    assert log == before
    assert told[0] == SYSTEM
    assert all(set(message) <= KNOWN for message in told)
    check_pairs(told)
    said = [message["content"] for message in told if message["role"] == "user"]
    assert said == [message["content"] for message in log if message["role"] == "user"]
    for made in find_calls(told):
        assert made["function"]["arguments"] == '{"e":1}' or (made["id"], "look") not in edited


def check_pairs(told: list[Json]) -> None:
    """Each call is followed by its result, in order, and there is no other result."""
    due: list[str] = []
    for message in told:
        if message["role"] == "tool":
            assert message["tool_call_id"] == due.pop(0)
            assert message["content"] is not None
        else:
            assert due == []
            due = [made["id"] for made in message.get("tool_calls", [])]
            assert due or message["role"] != "assistant" or message["content"]
    assert due == []


def find_calls(told: list[Json]) -> Iterator[Json]:
    for message in told:
        yield from message.get("tool_calls", [])


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
        assert await read(store, 1) == [None, "1" * 400, "2" * 400]


async def test_edited_arguments_are_read(database_url: str) -> None:
    async with open_store(database_url, Settings()) as store:
        await store.create_session("s")
        for call_id, decision in (("a", "edit"), ("b", "approve")):
            edit = {"path": call_id} if decision == "edit" else None
            await store.create_approval("s", call_id, "save", {})
            await store.decide_approval("s", call_id, decision, modified_arguments=edit)
        log = [{"role": "assistant", "content": None, "tool_calls": [{}]}]
        assert await read_edited(store, "s", "", log) == {("a", "save"): {"path": "a"}}
        assert await read_edited(store, "s", "", []) == {}, "there is no call to look for"
