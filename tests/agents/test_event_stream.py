"""Server-sent events are the same however the bytes are cut."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.agents.event_stream import EventStreamParser
from runtime.errors import ModelGarbled

LIMIT = 1000
STREAM = (
    "\ufeffdata: one\r\n\r\n: a comment\ndata:two\n\nevent: x\rid: 7\rdata: thr😀e\rdata:  lines\rdata\r\r"
    "retry: 5\n\n\n\ndata: é\r\ndata:\r\n\r\ndata: never ended"
).encode()
EVENTS = ["one", "two", "thr😀e\n lines\n", "é\n"]


def parse(*pieces: bytes, limit: int = LIMIT) -> list[str]:
    parser = EventStreamParser(limit)
    return [data for piece in pieces for data in parser.feed(piece)]


def test_every_form_that_the_standard_allows_is_read() -> None:
    assert parse(STREAM) == EVENTS


def test_one_byte_at_a_time_gives_the_same() -> None:
    assert parse(*(STREAM[cut : cut + 1] for cut in range(len(STREAM)))) == EVENTS


def test_a_cut_at_any_place_gives_the_same() -> None:
    assert all(parse(STREAM[:cut], b"", STREAM[cut:]) == EVENTS for cut in range(len(STREAM) + 1))


def test_an_event_is_given_with_its_last_byte_and_not_before() -> None:
    parser = EventStreamParser(LIMIT)
    assert parser.feed(b"data: now\r") == []
    assert parser.feed(b"\n\r") == ["now"]
    assert parser.feed(b"\ndata: next\n") == []
    assert parser.feed(b"\n") == ["next"]


def test_a_byte_order_mark_counts_at_the_start_only() -> None:
    assert parse("\ufeffdata: a\n\n\ufeffdata: b\n\n".encode()) == ["a"]


def test_bytes_that_are_no_text_become_replacement_characters() -> None:
    assert parse(b"data: a\xffb\n\n") == ["a\ufffdb"]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_only_the_three_line_ends_end_a_line(line_end: bytes) -> None:
    strange = "a\x0bb\x0cc\x1cd\x85e\u2028f"
    assert parse(b"data: " + strange.encode() + 2 * line_end) == [strange]


def test_an_event_may_be_as_long_as_the_limit_and_no_longer() -> None:
    assert parse(b"data:" + b"x" * 93 + b"\n\n" + b"data:y\n\n", limit=100) == ["x" * 93, "y"]
    with pytest.raises(ModelGarbled, match="more than 100 bytes"):
        parse(b"data:" + b"x" * 94 + b"\n\n", limit=100)


@pytest.mark.parametrize("line", [b"x", b": comment\n", b"data: x\n"])
def test_a_line_or_an_event_without_end_is_broken_off(line: bytes) -> None:
    with pytest.raises(ModelGarbled):
        parse(*[line] * 101, limit=100)


def by_the_standard(stream: bytes) -> list[str]:
    """The events of a whole stream, read in the plainest way."""
    text = stream.decode(errors="replace").removeprefix("\ufeff")
    events, data = [], []
    for line in re.split("\r\n|\n|\r", text)[:-1]:
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif line == "data":
            data.append("")
        elif line == "":
            events += ["\n".join(data)] if data else []
            data = []
    return events


PARTS = st.sampled_from(
    [
        b"data",
        b":",
        b" ",
        b"\r",
        b"\n",
        b"\r\n",
        b"x",
        b"\xf0\x9f\x98\x80",
        b"\xff",
        b"\xef\xbb\xbf",
        b"id: 1",
    ]
)


@given(st.lists(PARTS, max_size=60).map(b"".join), st.lists(st.integers(0, 200)))
def test_any_stream_cut_at_any_places_is_read_as_the_standard_says(stream: bytes, places: list[int]) -> None:
    cuts = [0, *sorted(min(place, len(stream)) for place in places), len(stream)]
    pieces = [stream[start:end] for start, end in itertools.pairwise(cuts)]
    assert parse(*pieces) == parse(stream) == by_the_standard(stream)
