"""A message comes back as it was sent: parsed, stored as JSON texts, and written out again."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from runtime.errors import InvalidInput
from runtime.store.messages import (
    MESSAGE_OVERHEAD,
    TITLE_LENGTH,
    NewMessage,
    encode_chat_message,
    encode_message,
    new_message,
    new_messages,
    rfc3339,
)
from runtime.store.records import MessageRow
from runtime.store.validation import MAX_NESTING, json_text

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
ROLES = ("system", "developer", "user", "assistant", "tool")
KNOWN = ("name", "tool_call_id", "tool_calls", "token_count", "metadata")
CHAT = ("role", "content", "name", "tool_call_id", "tool_calls")
OURS = {"seq", "timestamp", "token_count", "metadata"}

texts = st.text(st.characters(exclude_categories=["Cs"]))
numbers = st.integers() | st.integers(-(10**40), 10**40) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(texts, json_values, max_size=4)
lists = st.lists(json_values, max_size=4)
known_fields = st.fixed_dictionaries(
    {"role": st.sampled_from(ROLES), "content": st.none() | texts | lists},
    optional={
        "name": st.none() | texts,
        "tool_call_id": st.none() | texts,
        "tool_calls": st.none() | lists,
        "token_count": st.none() | st.integers(0, 2**31 - 1),
        "metadata": st.none() | objects,
    },
)
RESERVED = {"role", "content", "timestamp", "seq", *KNOWN}
raw_messages = st.builds(
    lambda extra, known: {**{name: extra[name] for name in extra if name not in RESERVED}, **known},
    objects,
    known_fields,
)


def parse(raw: Any) -> NewMessage:
    (message,) = new_messages([raw])
    return message


def columns(message: NewMessage, seq: int = 1) -> dict[str, Any]:
    """The row that the message is stored as."""
    stored = ("role", "content", "timestamp", *KNOWN, "extra")
    return {"seq": seq, **{name: getattr(message, name) for name in stored}, "timestamp": NOON}


@given(raw_messages, st.integers(1, 2**63 - 1))
def test_whatever_a_client_sends_comes_back_equal(raw: dict[str, Any], seq: int) -> None:
    encoded = encode_message(MessageRow(**columns(parse(raw), seq)))
    assert json.loads(encoded) == {**raw, "seq": seq, "timestamp": "2026-11-21T12:00:00Z"}


@given(raw_messages)
def test_the_history_gives_a_message_back_without_what_we_added_to_it(raw: dict[str, Any]) -> None:
    sent = {name: raw[name] for name in raw if name not in OURS}
    assert json.loads(encode_chat_message(MessageRow(**columns(parse(raw))))) == sent


@given(raw_messages)
def test_what_is_given_back_may_be_sent_again(raw: dict[str, Any]) -> None:
    message = parse(raw)
    again = parse(json.loads(encode_message(MessageRow(**columns(message, 7)))))
    assert columns(again, 7) == columns(message, 7)


@given(raw_messages)
def test_w9_the_size_of_a_message_covers_its_texts(raw: dict[str, Any]) -> None:
    message = parse(raw)
    columns = (getattr(message, name) for name in message.__struct_fields__)
    assert message.size >= sum(len(text.encode()) for text in columns if isinstance(text, str))


zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=zones))
def test_a_time_that_a_client_names_is_kept_in_utc(time: datetime) -> None:
    message = parse({"role": "user", "timestamp": time.isoformat()})
    assert message.timestamp == time
    assert message.timestamp is not None
    assert message.timestamp.tzinfo is UTC
    written = json.loads(encode_message(MessageRow(**{**columns(message), "timestamp": message.timestamp})))
    assert written["timestamp"].endswith("Z")
    assert datetime.fromisoformat(written["timestamp"]) == time


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00"])
def test_a_time_that_utc_has_no_room_for_is_refused(time: str) -> None:
    refuse({"role": "user", "timestamp": time}, "$[0].timestamp")


def test_a_number_of_ours_is_not_taken_from_a_client() -> None:
    assert parse({"role": "user", "seq": 99}).extra is None


def refuse(raw: Any, path: str) -> str:
    """The message of the one problem, which is at this place."""
    with pytest.raises(InvalidInput) as refused:
        new_messages([raw])
    (problem,) = refused.value.problems
    assert problem.path == path
    return problem.message


WRONG: list[tuple[Any, str]] = [
    ("not an object", "$[0]"),
    (None, "$[0]"),
    ([], "$[0]"),
    ({}, "$[0].role"),
    ({"content": "x"}, "$[0].role"),
    ({"role": "robot"}, "$[0].role"),
    ({"role": None}, "$[0].role"),
    ({"role": "user", "content": 1}, "$[0].content"),
    ({"role": "user", "content": {"text": "x"}}, "$[0].content"),
    ({"role": "user", "name": 1}, "$[0].name"),
    ({"role": "user", "tool_call_id": []}, "$[0].tool_call_id"),
    ({"role": "user", "tool_calls": {}}, "$[0].tool_calls"),
    ({"role": "user", "token_count": -1}, "$[0].token_count"),
    ({"role": "user", "token_count": 2**31}, "$[0].token_count"),
    ({"role": "user", "token_count": 1.5}, "$[0].token_count"),
    ({"role": "user", "token_count": True}, "$[0].token_count"),
    ({"role": "user", "metadata": []}, "$[0].metadata"),
    ({"role": "user", "timestamp": "yesterday"}, "$[0].timestamp"),
    ({"role": "user", "timestamp": "2026-11-21T12:00:00"}, "$[0].timestamp"),
    ({"role": "user", "timestamp": 12}, "$[0].timestamp"),
]


@pytest.mark.parametrize(("raw", "path"), WRONG, ids=map(repr, range(len(WRONG))))
def test_a_message_of_the_wrong_shape_is_refused_with_its_place(raw: Any, path: str) -> None:
    assert refuse(raw, path)


def test_the_place_names_the_message_among_others() -> None:
    with pytest.raises(InvalidInput) as refused:
        new_messages([{"role": "user"}, {"role": "user", "content": 1}], "$.messages")
    assert refused.value.problems[0].path == "$.messages[1].content"


def somewhere(value: Any) -> st.SearchStrategy[dict[str, Any]]:
    """A message with this value in one of its fields, within lists and objects."""
    wraps = st.sampled_from(
        (lambda inner: [inner], lambda inner: {"k": inner}, lambda inner: ["null", inner])
    )
    nested = st.lists(wraps, max_size=3).map(lambda each: _wrapped(value, each))
    return st.builds(
        lambda name, inner: {"role": "user", name: {"k": inner} if name == "metadata" else [inner]},
        st.sampled_from(("content", "tool_calls", "metadata", "other")),
        nested,
    )


def _wrapped(value: Any, wraps: list[Any]) -> Any:
    for wrap in wraps:
        value = wrap(value)
    return value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_does_not_have_is_refused_wherever_it_stands(value: float) -> None:
    @given(somewhere(value))
    def check(raw: dict[str, Any]) -> None:
        assert "not finite" in refuse(raw, "$[0]")

    check()


@given(somewhere("\ud800"))
def test_half_of_a_surrogate_pair_is_refused_wherever_it_stands(raw: dict[str, Any]) -> None:
    assert "surrogate" in refuse(raw, "$[0]")


@pytest.mark.parametrize("raw", [{"name": "\udfff"}, {"\ud800": 1}, {"content": "\ud800"}])
def test_half_of_a_surrogate_pair_is_refused_in_a_field_and_in_a_name(raw: dict[str, Any]) -> None:
    refuse({"role": "user", **raw}, "$[0]")


def nested(depth: int) -> Any:
    value: Any = None
    for level in range(depth):
        value = [value] if level % 2 else {"k": value}
    return value


def test_deep_nesting_comes_back() -> None:
    assert json.loads(json_text(nested(MAX_NESTING))) == nested(MAX_NESTING)


@pytest.mark.parametrize("depth", [MAX_NESTING + 1, 2 * MAX_NESTING, 1_000, 100_000])
def test_nesting_that_might_not_come_out_again_is_refused(depth: int) -> None:
    with pytest.raises(InvalidInput, match="cannot be stored"):
        json_text(nested(depth))


def title(*contents: Any) -> Any:
    """What a session with these user messages is called."""
    titles = (parse({"role": "user", "content": content}).title for content in contents)
    return next((json.loads(text) for text in titles if text is not None), None)


@given(st.lists(texts, min_size=1, max_size=5))
def test_a_title_is_the_first_line_that_says_something(lines: list[str]) -> None:
    content = "\n".join(lines)
    assume(len(content) <= 10 * TITLE_LENGTH)
    said = [line.strip() for line in content.split("\n") if line.strip()]
    assert title(content) == (said[0][:TITLE_LENGTH] if said else None)


def test_a_title_is_one_line_after_many_blank_ones_too() -> None:
    assert title("\n" * 60 + " first \nsecond") == "first"


def test_a_title_comes_from_the_first_part_with_text() -> None:
    parts = ["?", {"type": "image"}, {"text": 1}, {"text": " "}, {"type": "text", "text": "Look\nhere"}]
    assert title(parts) == "Look"


def test_a_message_that_says_nothing_gives_no_title() -> None:
    assert title(None, "", " \n\t", [], [{}]) is None


@pytest.mark.parametrize("role", [role for role in ROLES if role != "user"])
def test_only_a_user_message_gives_a_title(role: str) -> None:
    assert parse({"role": role, "content": "Hello"}).title is None


def test_a_long_line_is_cut() -> None:
    assert title("x" * 500) == "x" * TITLE_LENGTH


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_time_is_written_without_a_fraction_where_there_is_none(time: datetime) -> None:
    assert rfc3339(time) == time.replace(tzinfo=None).isoformat() + "Z"
    assert rfc3339(time.replace(microsecond=0)) == time.replace(microsecond=0, tzinfo=None).isoformat() + "Z"


@pytest.mark.parametrize(
    ("content", "size"), [("abc", 49 + 5), ("é", 73 + 3), ("世", 74 + 6), ("😀", 76 + 12)]
)
def test_the_size_of_a_message_is_the_same_on_every_python(content: str, size: int) -> None:
    assert new_message({"role": "user", "content": content}).size == MESSAGE_OVERHEAD + size
