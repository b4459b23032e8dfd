"""An answer is put together from chunks as servers of many makes send them."""

from __future__ import annotations

import json
from contextlib import suppress
from itertools import count, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.agents.event_stream import EventStreamParser
from runtime.agents.model import Answer, ToolCall
from runtime.agents.stream_assembler import MAX_CALLS, MAX_CHARACTERS, Fragments, decode_chunk
from runtime.errors import ModelGarbled
from tests.support.model_server import end, fragments, text

Json = Any


def delta(**fields: Json) -> Json:
    return {"choices": [{"index": 0, "delta": fields}]}


def call(arguments: Json = None, **fields: Json) -> Json:
    """A fragment of a call, in a chunk of its own."""
    name = {"name": fields.pop("name")} if "name" in fields else {}
    return delta(tool_calls=[{**fields, "function": {**name, "arguments": arguments}}])


def gather(*chunks: Json) -> tuple[Answer, list[str]]:
    """The answer, and the pieces of text that were said."""
    said: list[str] = []
    numbers = count(1)
    gathered = Fragments(said.append, lambda: f"made_{next(numbers)}")
    for chunk in chunks:
        gathered.take(decode_chunk(chunk if isinstance(chunk, str) else json.dumps(chunk)))
    return gathered.answer(), said


def calls_of(*chunks: Json) -> tuple[ToolCall, ...]:
    return gather(*chunks)[0].calls


def test_text_is_said_piece_by_piece_and_is_whole_at_the_end() -> None:
    answer, said = gather(
        delta(role="assistant"),
        delta(role="assistant", content=""),
        delta(content="Hel"),
        delta(content=None),
        {"choices": []},
        {"choices": [{"index": 0}]},
        delta(content="lo", reasoning_content="hm", reasoning="hm"),
        {"choices": [{"delta": {}, "finish_reason": "stop"}]},
    )
    assert said == ["Hel", "lo"]
    assert answer == Answer("Hello")


def test_the_text_of_a_list_of_parts_is_said_and_other_parts_are_not() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    odd = [thinking, {"type": "text"}, {"type": "text", "text": 7}, {"text": "untyped"}, "x", 7, None]
    hello = [{"type": "text", "text": "Hel"}, *odd, {"type": "text", "text": "lo"}]
    answer, said = gather(delta(content=[thinking]), delta(content=hello), delta(content=[]))
    assert said == ["Hello"]
    assert answer == Answer("Hello")


def test_a_refusal_of_the_model_is_text() -> None:
    assert gather(delta(content=None, refusal="I will "), delta(refusal="not."))[0].text == "I will not."


@pytest.mark.parametrize("reason", ["stop", "tool_calls", "length", "content_filter", "function_call"])
def test_the_finish_reason_is_kept(reason: str) -> None:
    answer, _ = gather(delta(content="x"), {"choices": [{"delta": {}, "finish_reason": reason}]}, delta())
    assert answer.finish_reason == reason


def test_a_finish_reason_that_nobody_knows_is_a_stop() -> None:
    assert gather({"choices": [{"finish_reason": "eos\0"}]})[0].finish_reason == "stop"


@pytest.mark.parametrize(
    "chunks",
    [
        [{"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}}],
        [{**delta(content="x"), "usage": {"prompt_tokens": 9, "completion_tokens": 4}}],
        [{"usage": {"prompt_tokens": 9, "completion_tokens": 4, "details": {"x": [1]}}}],
        [{**delta(content="x"), "usage": {"prompt_tokens": 9, "completion_tokens": n}} for n in range(5)],
        [{"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}}, {**delta(), "usage": None}],
    ],
)
def test_the_last_usage_counts_wherever_it_stands(chunks: list[Json]) -> None:
    answer, _ = gather(*chunks)
    assert (answer.input_tokens, answer.output_tokens) == (9, 4)


@pytest.mark.parametrize("count", [4.5, -1, -1.0, "4", True, None, [4], {}, 99999999999, 1e300])
def test_a_count_that_is_none_is_passed_over(count: Json) -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": count}
    answer, _ = gather({**delta(content="x"), "usage": usage})
    assert (answer.text, answer.input_tokens, answer.output_tokens) == ("x", 9, 0)


@pytest.mark.parametrize("usage", [7, "many", [9, 4], True])
def test_a_usage_that_is_none_is_passed_over(usage: Json) -> None:
    answer, _ = gather({"usage": {"prompt_tokens": 9.0}}, {**delta(content="x"), "usage": usage})
    assert (answer.text, answer.input_tokens) == ("x", 9)


@pytest.mark.parametrize(
    "other", [{}, {"type": "ping"}, {"object": "ping"}, {"choices": None}, {"object": 7, "message": "x"}]
)
def test_an_object_that_is_no_chunk_adds_nothing(other: Json) -> None:
    assert gather(delta(content="x"), other, delta(content="y"))[0] == Answer("xy")


def test_of_several_answers_the_first_is_the_one() -> None:
    other = {"choices": [{"index": 1, "delta": {"content": "other"}, "finish_reason": "length"}]}
    assert gather(delta(content="mine"), other)[0] == Answer("mine")


def test_several_calls_come_interleaved_by_index() -> None:
    first = ToolCall("a", "read_file", '{"path": "x"}')
    second = ToolCall("b", "list_files", '{"path": "y"}')
    assert calls_of(
        call("", index=0, id="a", name="read_file"),
        call('{"path"', index=0),
        call('{"pa', index=1, id="b", name="list_files"),
        call(': "x"}', index=0),
        call('th": "y"}', index=1),
    ) == (first, second)


def test_calls_without_index_are_told_apart_by_id() -> None:
    assert calls_of(
        call("1", id="a", name="f"), call("2", id="b", name="g"), call("3"), call("4", id="a")
    ) == (ToolCall("a", "f", "14"), ToolCall("b", "g", "23"))


def test_calls_with_neither_index_nor_id_begin_with_another_name() -> None:
    assert calls_of(call("1", name="f"), call("2"), call("3", name="g"), call("4", name="g")) == (
        ToolCall("made_1", "f", "12"),
        ToolCall("made_2", "g", "34"),
    )


def test_arguments_sent_as_an_object_are_whole() -> None:
    assert calls_of(call({"path": "ä\ud83d"}, name="f"), call({"n": 1}, name="f"), call({}, name="f")) == (
        ToolCall("made_1", "f", '{"path": "ä\ufffd"}'),
        ToolCall("made_2", "f", '{"n": 1}'),
        ToolCall("made_3", "f", "{}"),
    )


def test_calls_that_all_have_index_0_are_told_apart_by_id_and_name() -> None:
    assert calls_of(call("1", index=0, id="a", name="f"), call("2", index=0, id="b", name="f")) == (
        ToolCall("a", "f", "1"),
        ToolCall("b", "f", "2"),
    )


@pytest.mark.parametrize("same", [{"index": 0, "id": ""}, {"index": 0}, {"id": ""}, {}])
def test_calls_without_index_or_id_end_with_whole_arguments(same: Json) -> None:
    assert calls_of(
        call('{"n": {}}\n', name="f", **same),
        call('{"n"', name="f", **same),
        call(": 2", name="f", **same),
        call("}", name="f", **same),
        call("", **same),
        call("", name="g", **same),
        call("{}", **same),
    ) == (
        ToolCall("made_1", "f", '{"n": {}}\n'),
        ToolCall("made_2", "f", '{"n": 2}'),
        ToolCall("made_3", "g", "{}"),
    )


def test_calls_that_nothing_else_tells_apart_may_come_in_one_delta() -> None:
    both = [{"index": 0, "id": "", "function": {"name": "f", "arguments": text}} for text in ("{}", "{}")]
    assert len(calls_of(delta(tool_calls=both))) == 2


def test_a_name_that_comes_behind_the_arguments_is_that_of_the_same_call() -> None:
    assert calls_of(call({"n": 1}), call("", name="f")) == (ToolCall("made_1", "f", '{"n": 1}'),)


def test_an_id_that_is_repeated_with_its_name_is_the_same_call() -> None:
    assert calls_of(call("{}", index=0, id="a", name="f"), call("", index=0, id="a", name="f")) == (
        ToolCall("a", "f", "{}"),
    )


@pytest.mark.parametrize("begun", ["", "[1]", '{"a": {}', '{"a": "}', "}"])
def test_a_name_is_repeated_as_long_as_the_arguments_are_no_whole_object(begun: str) -> None:
    assert calls_of(call(begun, index=0, name="f"), call("x", index=0, name="f")) == (
        ToolCall("made_1", "f", begun + "x"),
    )


def test_a_new_id_in_each_fragment_is_the_same_call_by_its_index() -> None:
    assert calls_of(call("1", index=0, id="a", name="f"), call("2", index=0, id="b")) == (
        ToolCall("a", "f", "12"),
    )


def test_an_id_that_comes_late_is_taken() -> None:
    assert calls_of(call("1", index=0, name="f"), call("2", index=0, id="a")) == (ToolCall("a", "f", "12"),)


def test_a_name_that_is_repeated_in_each_fragment_is_not_doubled() -> None:
    assert calls_of(call("1", index=0, id="a", name="f"), call("2", index=0, name="f")) == (
        ToolCall("a", "f", "12"),
    )


def test_a_name_may_come_in_pieces() -> None:
    assert calls_of(call("", index=0, id="a", name="read_"), call("", index=0, name="file"))[0].name == (
        "read_file"
    )


def test_an_id_that_comes_twice_is_replaced_the_second_time() -> None:
    assert [
        found.id
        for found in calls_of(call("", index=0, id="a", name="f"), call("", index=1, id="a", name="g"))
    ] == ["a", "made_1"]


@pytest.mark.parametrize("id", ["", None, "x" * 256, "a\0", "a\n", "\x7f", "\ud800"])
def test_an_id_that_cannot_be_stored_is_replaced(id: str | None) -> None:
    assert calls_of(call("{}", index=0, id=id, name="f")) == (ToolCall("made_1", "f", "{}"),)


def test_an_id_of_our_own_making_is_new_each_time() -> None:
    gathered = Fragments(lambda _: None)
    gathered.take(decode_chunk(json.dumps(call("", index=0, name="f"))))
    gathered.take(decode_chunk(json.dumps(call("", index=1, name="f"))))
    ids = [found.id for found in gathered.answer().calls]
    assert len(set(ids)) == 2
    assert all(id.startswith("call_") and len(id) == 37 for id in ids)


def test_a_call_that_names_no_tool_is_garbled() -> None:
    with pytest.raises(ModelGarbled, match="names no tool"):
        gather(call("{}", index=0, id="a"))


def test_halves_of_an_emoji_in_two_deltas_are_joined() -> None:
    answer, said = gather(delta(content="a\ud83d"), delta(content=""), delta(content="\ude00b"))
    assert said == ["a", "😀b"]
    assert answer.text == "a😀b"


def test_halves_that_stay_alone_are_replaced() -> None:
    answer, said = gather(delta(content="\ude00a\ud83d"), delta(content="b\ud83d"))
    assert said == ["\ufffda", "\ufffdb", "\ufffd"]
    assert answer.text == "".join(said)


def test_halves_of_an_emoji_in_arguments_are_joined() -> None:
    assert (
        calls_of(call("\ud83d", index=0, name="f"), call("\ude00\ud83d", index=0))[0].arguments == "😀\ufffd"
    )


def test_a_stream_cut_at_any_byte_gives_the_same_answer() -> None:
    wanted = (ToolCall("a", "read_file", '{"path": "grün"}'), ToolCall("b", "list_files", '{"n": "😀"}'))
    pieces = [*text("Grün ", "😀", "!"), *fragments(*wanted), *end("tool_calls")]
    stream = b"".join(pieces).replace(b"\n", b"\r\n")
    for cut in range(len(stream) + 1):
        parser = EventStreamParser(len(stream))
        found = [*parser.feed(stream[:cut]), *parser.feed(stream[cut:])]
        assert found.pop() == "[DONE]"
        assert gather(*found)[0] == Answer("Grün 😀!", wanted, "tool_calls", 12, 5)


def test_begun_says_whether_the_first_token_is_there() -> None:
    gathered = Fragments(lambda _: None)
    gathered.take(decode_chunk(json.dumps(delta(role="assistant", content=""))))
    assert not gathered.begun
    gathered.take(decode_chunk(json.dumps(call("", index=0, name="f"))))
    assert gathered.begun


def test_an_answer_may_be_as_long_as_the_bound_and_no_longer() -> None:
    half = "x" * (MAX_CHARACTERS // 2)
    assert len(gather(delta(content=half), delta(content=half))[0].text) == MAX_CHARACTERS
    with pytest.raises(ModelGarbled, match="endless text: more than 1000000 characters"):
        gather(delta(content=half), call(half, index=0, id="a", name="f"))


def test_there_may_be_as_many_calls_as_the_bound_and_no_more() -> None:
    chunks = [call("", index=number, id=str(number), name="f") for number in range(MAX_CALLS + 1)]
    assert len(calls_of(*chunks[:-1])) == MAX_CALLS
    with pytest.raises(ModelGarbled, match="endless text: more than 128 tool calls"):
        calls_of(*chunks)


@pytest.mark.parametrize(
    "data",
    [
        *(
            "",
            "nonsense",
            "{",
            "[]",
            "[DONE",
            "7",
            "null",
            '"text"',
            "[" * 100_000,
        ),
        *('{"choices": {}}', '{"choices": [7]}', '{"choices": [{"delta": "x"}]}'),
        *('{"choices": [{"delta": {"content": 7}}]}', '{"choices": [{"finish_reason": 7}]}'),
        *('{"choices": [{"delta": {"tool_calls": {}}}]}', '{"choices": [{"delta": {"tool_calls": [7]}}]}'),
        '{"choices": [{"delta": {"tool_calls": [{"function": {"arguments": 7}}]}}]}',
        '{"choices": [{"delta": {"content": "\\ud83d", "refusal": 7}}]}',
        '{"choices": [{"delta": {"tool_calls": [{"function": {"arguments": {"a": ' + "[" * 100_000,
    ],
)
def test_what_is_not_a_chunk_is_garbled(data: str) -> None:
    with pytest.raises(ModelGarbled, match="the language model sent"):
        decode_chunk(data)


@pytest.mark.parametrize("depth", range(50, 1000, 10))
def test_arguments_of_any_depth_are_taken_or_garbled(depth: int) -> None:
    nested = '{"a": ' * depth + "1" + "}" * depth
    try:
        found = calls_of(
            '{"choices": [{"delta": {"tool_calls": [{"function": {"name": "f", "arguments": '
            + nested
            + "}}]}}]}"
        )
    except ModelGarbled:
        assert depth > 100
    else:
        assert found[0].arguments == nested


NAMES = ["choices", "delta", "content", "tool_calls", "index", "id", "function", "name", "arguments", "usage"]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=20,
)


@given(st.lists(ANYTHING, max_size=4))
def test_any_json_gives_an_answer_or_is_garbled(chunks: list[Json]) -> None:
    with suppress(ModelGarbled):
        answer, said = gather(*(json.dumps(chunk) for chunk in chunks))
        assert answer.text == "".join(said)


TEXT = st.text(st.characters(codec=None), max_size=20)


@given(TEXT, st.lists(st.integers(0, 20)))
def test_any_text_cut_anywhere_is_the_text_with_its_surrogates_mended(text: str, places: list[int]) -> None:
    units = text.encode("utf-16-le", "surrogatepass")
    halves = [units[at : at + 2].decode("utf-16-le", "surrogatepass") for at in range(0, len(units), 2)]
    cuts = [0, *sorted(min(place, len(halves)) for place in places), len(halves)]
    pieces = ["".join(halves[start:end]) for start, end in pairwise(cuts)]
    answer, said = gather(*(delta(content=piece) for piece in pieces))
    assert answer.text == "".join(said) == units.decode("utf-16-le", "replace")
