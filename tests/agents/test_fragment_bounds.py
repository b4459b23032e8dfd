"""An answer in the smallest pieces, or in pieces of nothing: bounded in size, number, memory and time."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.agents.stream_assembler import (
    LONG_CHUNK,
    MAX_CALLS,
    MAX_EMPTY,
    MAX_NAME,
    MAX_PIECES,
    CallFragment,
    Chunk,
    Fragments,
    FunctionFragment,
    _CallSoFar,
    decode_chunk,
)
from runtime.errors import ModelGarbled

pytestmark = pytest.mark.slow

Json = Any


def delta(**fields: Json) -> Chunk:
    return decode_chunk(json.dumps({"choices": [{"index": 0, "delta": fields}]}))


def calling(*fragments: Json) -> Chunk:
    return delta(tool_calls=list(fragments))


def piece(**function: Json) -> Json:
    """A fragment of the only call."""
    return {"index": 0, "function": function}


def gather(chunks: Sequence[Chunk]) -> Fragments:
    gathered = Fragments(lambda _: None)
    for chunk in chunks:
        gathered.take(chunk)
    return gathered


@pytest.mark.parametrize(
    "chunk",
    [
        calling(*[{"index": 0}] * (MAX_PIECES + 1)),
        calling(*[piece(arguments="x")] * 12_000),
        decode_chunk(json.dumps({"choices": [{}] * (MAX_PIECES + 1)})),
    ],
)
def test_an_event_has_a_bounded_number_of_pieces(chunk: Chunk) -> None:
    with pytest.raises(ModelGarbled, match=f"an event of more than {MAX_PIECES} pieces"):
        gather([chunk])


def test_all_calls_may_come_in_one_event() -> None:
    made = [{**piece(name="f", arguments="{}"), "index": n} for n in range(MAX_CALLS)]
    assert len(gather([calling(*made)]).answer().calls) == MAX_CALLS


def test_the_name_of_a_tool_is_bounded() -> None:
    with pytest.raises(ModelGarbled, match=f"a tool with more than {MAX_NAME} characters"):
        gather([calling(piece(name=f"{n:10}")) for n in range(MAX_NAME // 10 + 1)])


# Each of these adds nothing to the answer.
EMPTY = {
    "no choices": decode_chunk('{"choices":[]}'),
    "no delta": decode_chunk('{"choices":[{"index":0}]}'),
    "no text": delta(content=""),
    "a call": calling({"index": 0}),
    "arguments": calling(piece(name="f", arguments="")),
    "no index": calling({"function": {"name": "f", "arguments": ""}}),
    "thinking": delta(reasoning_content="hm"),
}


@pytest.mark.parametrize("name", EMPTY)
def test_pieces_that_add_nothing_are_bounded_and_take_no_memory(name: str) -> None:
    gathered = gather([calling(piece(name="f", arguments="{"))])
    tracemalloc.start()
    take(gathered, EMPTY[name], 20_000)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 20_000, "less than a byte for each"
    with pytest.raises(ModelGarbled, match=f"more than {MAX_EMPTY} pieces with nothing in them"):
        take(gathered, EMPTY[name], MAX_EMPTY)


def take(gathered: Fragments, chunk: Chunk, times: int) -> None:
    for _ in range(times):
        gathered.take(chunk)


# The first piece of a call, and all others.
CUT_CALLS = {
    "its name in each": (piece(name="f", arguments="{"), piece(name="f", arguments="}")),
    "an end in each": (piece(name="f", arguments='{"a":"'), piece(name="f", arguments="}")),
    "blanks": (piece(name="f", arguments="{"), piece(name="f", arguments=" ")),
    "arguments alone": (piece(name="f", arguments="{"), piece(arguments="ab")),
}


@pytest.mark.parametrize("name", CUT_CALLS)
def test_the_time_grows_with_the_number_of_pieces_and_not_with_its_square(name: str) -> None:
    first, other = (calling(fragment) for fragment in CUT_CALLS[name])
    few, many = (min(seconds_for([first] + [other] * count) for _ in range(3)) for count in (2_000, 20_000))
    # A hundredfold would be its square.
    assert many < 30 * few


def seconds_for(chunks: Sequence[Chunk]) -> float:
    began = time.process_time()
    gather(chunks)
    return time.process_time() - began


VALUES = st.recursive(
    st.none() | st.floats(allow_nan=False) | st.text('ab{}[]"\\ ,:', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text('a{}"\\', max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
TEXTS = st.one_of(VALUES.map(json.dumps), st.text('ab{}[]"\\ ,:1', max_size=12))


@given(st.lists(TEXTS, max_size=3).map("".join), st.sampled_from(["", " ", "}", "{}"]), st.data())
def test_arguments_are_whole_when_they_are_a_json_object(text: str, behind: str, data: st.DataObject) -> None:
    call, taken, rest = _CallSoFar(), "", text + behind
    while rest:
        length = data.draw(st.integers(1, len(rest)))
        taken, rest = taken + rest[:length], rest[length:]
        call.take(CallFragment(function=FunctionFragment(arguments=taken[-length:])))
        if data.draw(st.booleans()):
            assert call.is_whole() == is_object(taken)
            assert call.arguments == taken


def is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


@pytest.mark.parametrize("number", ["1e308", "-0.0", "9007199254740993", "1" * 30])
@pytest.mark.parametrize("times", [1, LONG_CHUNK])
def test_a_long_chunk_is_read_as_a_short_one(number: str, times: int) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "thinking", "n": 7}]
    content = json.dumps(parts * times).replace("7", number)
    chunk = f'{{"choices":[{{"delta":{{"content":{content},"tool_calls":[{{"index":0}}]}}}}]}}'
    assert gather([decode_chunk(chunk), calling(piece(name="f"))]).answer().text == "a" * times


@pytest.mark.parametrize(
    "wrong", ["[" * LONG_CHUNK, "7" * 2 * LONG_CHUNK, '{"choices":7}' + " " * LONG_CHUNK]
)
def test_a_long_chunk_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(ModelGarbled, match="what is not a chunk of an answer"):
        decode_chunk(wrong)
