"""How texts are cut into words, what a query means, and where it matches."""

from __future__ import annotations

import json
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import InvalidInput
from runtime.store.words import (
    MAX_QUERY,
    SNIPPET_LENGTH,
    WORD_LENGTH,
    Match,
    Matcher,
    Term,
    index_terms,
    parse_query,
    texts_of,
    words_of,
)

TEXTS = st.text(st.sampled_from("ab AB_-/.1日本한é²ß😀\n\x00'\"*@"), max_size=60)


def cut(text: str) -> list[str]:
    return [word for word, _, _ in words_of(text)]


def find(query: str, *texts: str) -> Match | None:
    matcher = Matcher(parse_query(query))
    for text in texts:
        for _ in matcher.scan(text):
            pass
    return matcher.match()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("src/app_main.py", ["src", "app", "main", "py"]),
        ("Straße ÉCOLE 12.5", ["strasse", "école", "12", "5"]),
        ("日本語abcテスト", ["日", "本", "語", "abc", "テ", "ス", "ト"]),
        ("한국어 ー 𠮷", ["한", "국", "어", "ー", "𠮷"]),
        ("नमस्ते", ["नमस", "त"]),
        ("a\x00b 😀 ' \" @o", ["a", "b", "o"]),
        ("", []),
        ("x" * 100, ["x" * WORD_LENGTH]),
    ],
)
def test_texts_are_cut_into_words(text: str, words: list[str]) -> None:
    assert cut(text) == words


@given(st.text())
def test_each_letter_and_digit_is_in_one_word(text: str) -> None:
    spans = [(start, end) for _, start, end in words_of(text)]
    inside = {n for start, end in spans for n in range(start, end)}
    assert inside == {n for n, character in enumerate(text) if character.isalnum()}
    assert spans == sorted(spans)
    for character in text:
        name = unicodedata.name(character, "")
        if name.startswith(("CJK UNIFIED", "HIRAGANA LETTER", "KATAKANA LETTER", "HANGUL SYLLABLE")):
            assert cut(f"a{character}b") == ["a", *cut(character), "b"]


@pytest.mark.parametrize(
    ("query", "terms"),
    [
        ("one Two", [Term(("one",), False), Term(("two",), False)]),
        ('"one two" thr*', [Term(("one", "two"), False), Term(("thr",), True)]),
        ("src/app*", [Term(("src", "app"), True)]),
        ('"never closed', [Term(("never", "closed"), False)]),
        ("same SAME same", [Term(("same",), False)]),
        ("日本", [Term(("日", "本"), False)]),
        ("! word -", [Term(("word",), False)]),
    ],
)
def test_queries_are_parsed(query: str, terms: list[Term]) -> None:
    assert parse_query(query) == terms


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("", "no word"),
        ("* ! 😀", "no word"),
        ("w" * (MAX_QUERY + 1), "at most 500"),
        (" ".join(map(str, range(21))), "at most 20"),
    ],
)
def test_what_is_no_query_is_refused(query: str, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        parse_query(query)


def test_the_index_has_the_words_of_all_terms() -> None:
    assert index_terms(parse_query('"a b" b* c*'), ["@oner"]) == [
        ("@oner", False),
        ("a", False),
        ("b", False),
        ("c", True),
    ]


@given(TEXTS, TEXTS)
def test_a_phrase_is_found_where_its_words_stand_together(text: str, wanted: str) -> None:
    words = cut(wanted)
    if words:
        found = f" {' '.join(words)} " in f" {' '.join(cut(text))} "
        assert (find(f'"{wanted.replace(chr(34), " ")}"', text) is not None) == found


@given(TEXTS, st.text("abAB1é", min_size=1, max_size=2))
def test_a_prefix_is_found_where_a_word_begins_with_it(text: str, wanted: str) -> None:
    found = any(word.startswith(cut(wanted)[0]) for word in cut(text))
    assert (find(f"{wanted}*", text) is not None) == found


@given(st.lists(st.sampled_from(["hay", "needle", "\n", "日"]), max_size=200).map(" ".join))
def test_a_snippet_shows_matches_of_the_text(text: str) -> None:
    match = find("needle", text)
    assert (match is not None) == ("needle" in text)
    if match is not None:
        assert match.snippet in text
        assert len(match.snippet) <= SNIPPET_LENGTH
        found = [found.span() for found in re.finditer("needle", match.snippet)]
        assert match.matches == found
        assert found


def test_words_may_be_in_different_texts_of_a_message() -> None:
    assert find("one two", "x one", "two") == Match("x one", [(2, 5)])
    assert find('"one two"', "x one", "two") is None


def test_a_match_longer_than_a_snippet_is_shown_as_far_as_it_goes() -> None:
    text = "word " * 100
    match = find(f'"{" ".join(["word"] * 90)}"', text)
    assert match is not None
    assert match.snippet == text[:SNIPPET_LENGTH]
    assert match.matches == [(0, SNIPPET_LENGTH)]


def test_the_texts_of_a_message_are_its_content_and_its_calls() -> None:
    parts = [
        {"type": "text", "text": "seen"},
        "plain",
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "tool_result", "content": [{"type": "text", "text": "inner"}]},
        {"type": "tool_use", "id": "x1", "name": "grep", "input": {"pattern": "deep"}},
    ]
    calls = [{"id": "c1", "type": "function", "function": {"name": "read", "arguments": '{"path": "a.py"}'}}]
    assert texts_of(json.dumps(parts), json.dumps(calls)) == [
        "seen",
        "plain",
        "inner",
        "deep",
        "read",
        '{"path": "a.py"}',
    ]
    assert texts_of('"text"', None) == ["text"]
    assert texts_of("null", "null") == []
