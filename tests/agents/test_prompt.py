"""What a model is sent of a conversation: of any log, something that strict servers accept."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from runtime.agents.prompt import INTERRUPTED, NOT_APPROVED, Decisions, chat_messages

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


def sent(*log: Json, decisions: Decisions = Decisions()) -> list[Json]:  # noqa: B008 - it is frozen
    """What is sent of the log, behind the instructions."""
    first, *rest = chat_messages("Be brief.", log, decisions)
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
    edited = {("c", "save"): '{"path":"b"}'}
    log = [calling(call("c", "look", '{"path":"a"}')), tool("c"), calling(call("c", "save")), tool("c")]
    _, first, _, second, _ = sent(user("hi"), *log, decisions=Decisions(edited))
    assert first["tool_calls"] == [call("c", "look", '{"path":"a"}')]
    assert second["tool_calls"] == [call("c", "save", '{"path":"b"}')]


def test_a_log_that_begins_in_the_middle_begins_with_a_question() -> None:
    cut = [calling(call("a")), tool("a"), says("Done."), user("hi"), says("Hello.")]
    assert sent(*cut) == [user("hi"), says("Hello.")]


def test_instructions_in_the_log_stand_with_the_others() -> None:
    log = [{"role": "developer", "content": "The project is old."}, user("hi"), says("Hello.")]
    late = {"role": "system", "content": [{"type": "text", "text": "Speak French."}]}
    told = chat_messages("Be brief.", [*log, late], Decisions())
    whole = "Be brief.\n\nThe project is old.\n\nSpeak French."
    assert told == [{"role": "system", "content": whole}, *log[1:]]


def test_what_a_model_got_wrong_is_not_sent_back_to_it() -> None:
    for wrong in ('{"path":', "[]", "null", "", "[" * 5000):
        (made,) = list(find_calls(sent(user("hi"), calling(call("a", "read file!", wrong)))))
        assert made["function"] == {"name": "read_file_", "arguments": "{}"}


def test_a_call_that_nobody_approved_in_time_was_not_carried_out() -> None:
    late = Decisions(expired=frozenset({("a", "look")}))
    told = sent(user("hi"), calling(call("a"), call("b")), user("Go on."), decisions=late)
    assert [message["content"] for message in told[2:4]] == [NOT_APPROVED, INTERRUPTED]


def test_a_user_who_says_nothing_is_left_out() -> None:
    assert sent(user("hi"), user(""), user(None), user([])) == [user("hi")]


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


@given(st.lists(MESSAGES, max_size=12), st.dictionaries(st.tuples(IDS, st.just("look")), st.just('{"e":1}')))
def test_of_any_log_comes_what_models_accept(log: list[Json], edited: dict[tuple[str, str], str]) -> None:
    before = copy.deepcopy(log)
    told = chat_messages("Be brief.", log, Decisions(edited))
    assert log == before
    assert told[0]["role"] == "system"
    assert all(message["role"] != "system" for message in told[1:])
    assert all(set(message) <= KNOWN for message in told)
    check_pairs(told)
    said = [message["content"] for message in told if message["role"] == "user"]
    assert said == [message["content"] for message in log if message["role"] == "user" and message["content"]]
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
