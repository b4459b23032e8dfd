"""Words of texts, queries for them, and where they match.

Both databases index the words that are cut here, so that a search finds the same on both. A word is a run of
letters and digits of any script; each Chinese, Japanese or Korean character is a word of its own. Upper and
lower case are alike. Of a long word only the first characters count.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from msgspec import Struct

from runtime.errors import InvalidInput
from runtime.store.records import JsonText, decode

# Scripts that are written without spaces, or whose words are searched for by their parts.
_SINGLE = (
    "\u2e80-\u2fdf\u3005\u3007\u3021-\u3029\u3038-\u303b\u3041-\u30ff\u3105-\u312f\u3131-\u318e"
    "\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff66-\uff9f"
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
WORD = re.compile(rf"[^\W_{_SINGLE}]+|(?!\W)[{_SINGLE}]")
# The characters of a word that count, and the bytes of a message's distinct words that are indexed: Postgres
# takes less than 1 MiB.
WORD_LENGTH, MAX_WORD_BYTES = 64, 900_000

# After so many words, other requests get a turn of the event loop.
WORDS_AT_A_TIME = 5000
# The ids that the entries of one millisecond may have.
IDS_OF_A_MOMENT = 1 << 20

# The members of a content part that are its text or parts in their turn, and those of which all is text: what
# a tool is called with, and what it returns. Others are types, ids, links and data.
# Lists of more parts are not searched: JSON with so many commas.
MAX_COMMAS = 100_000
_TEXTS = frozenset({"text", "content", "refusal", "thinking"})
_WHOLE = frozenset({"input", "output", "arguments", "result"})

MAX_QUERY, MAX_TERMS = 500, 20
_TERM = re.compile(r'"([^"]*)"?|([^\s"]+)')

SNIPPET_LENGTH, SNIPPET_LEAD = 200, 60
# The first character of a mark, which no word has.
MARK = "@"


def words_of(text: str) -> Iterator[tuple[str, int, int]]:
    """The words of a text in order, each with where it starts and ends."""
    for found in WORD.finditer(text):
        yield found[0][:WORD_LENGTH].casefold(), found.start(), found.end()


def texts_of(content: JsonText, tool_calls: JsonText | None) -> list[str]:
    """The texts of a message that are searched: its content, and the names and arguments of its calls.

    Structures with more than MAX_COMMAS commas are left out: to go through them takes long.
    """
    texts: list[str] = []
    if content.startswith('"') or content.count(",") <= MAX_COMMAS:
        value = decode(content)
        for part in value if isinstance(value, list) else [value]:
            texts += _texts_in(part, is_text=isinstance(part, str))
    if tool_calls is not None and tool_calls.count(",") <= MAX_COMMAS:
        calls = decode(tool_calls)
        for call in calls if isinstance(calls, list) else ():
            function = call.get("function", call) if isinstance(call, dict) else call
            texts += _texts_in(function, is_text=True)
    return texts


def _texts_in(value: Any, *, is_text: bool) -> Iterator[str]:
    """The texts of a part; with `is_text` all strings in it."""
    if isinstance(value, str):
        if is_text:
            yield value
    elif isinstance(value, dict):
        for name, member in value.items():
            if is_text or name in _WHOLE or name in _TEXTS:
                whole = is_text or name in _WHOLE or isinstance(member, str)
                yield from _texts_in(member, is_text=whole)
    elif isinstance(value, list):
        for item in value:
            yield from _texts_in(item, is_text=is_text or isinstance(item, str))


def owner_mark(owner: str) -> str:
    """The mark of an owner's messages in the index. Two owners may share one: it only narrows a search."""
    return f"{MARK}o{hashlib.blake2b(owner.encode(), digest_size=8).hexdigest()}"


def session_mark(session_id: str) -> str:
    """The mark of the messages of sessions of this id."""
    return f"{MARK}s{hashlib.blake2b(session_id.encode(), digest_size=8).hexdigest()}"


def role_mark(role: str) -> str:
    """The mark of the messages of a role."""
    return f"{MARK}r{role}"


def first_id(at: datetime) -> int:
    """The first id of an entry for a message of this time."""
    return min(max(int(at.timestamp() * 1000), 0), (1 << 43) - 1) * IDS_OF_A_MOMENT


class Term(NamedTuple):
    """Words that follow one another; with `is_prefix` the last one may go on."""

    words: tuple[str, ...]
    is_prefix: bool

    def ends_in(self, latest: Sequence[tuple[str, int, int]]) -> bool:
        """Whether the latest words of a text end with the term."""
        count = len(self.words)
        last = latest[-1][0]
        if not (last.startswith(self.words[-1]) if self.is_prefix else last == self.words[-1]):
            return False
        if len(latest) < count:
            return False
        return all(latest[n - count][0] == self.words[n] for n in range(count - 1))


def parse_query(query: str) -> list[Term]:
    """The terms of a query, all of which must occur. Raises InvalidInput.

    A term is a word, `"words in quotes"` or the beginning of a word, `word*`. What looks like one word but is
    cut into several is a phrase of these.
    """
    if len(query) > MAX_QUERY:
        raise InvalidInput("$.q", f"has {len(query)} characters; at most {MAX_QUERY} are allowed")
    terms = []
    for quoted, plain in _TERM.findall(query):
        if words := tuple(word for word, _, _ in words_of(quoted or plain)):
            terms.append(Term(words, is_prefix=plain.endswith("*")))
    if not terms:
        raise InvalidInput("$.q", "has no word: a search needs letters or digits")
    if len(terms) > MAX_TERMS:
        raise InvalidInput("$.q", f"has {len(terms)} words; at most {MAX_TERMS} are allowed")
    return list(dict.fromkeys(terms))


def index_terms(terms: Sequence[Term], marks: Sequence[str]) -> list[tuple[str, bool]]:
    """What an entry of the index must have: each word or mark, and whether as the beginning of one."""
    words = dict.fromkeys(marks, False)
    for term in terms:
        *whole, last = term.words
        words.update(dict.fromkeys(whole, False))
        words[last] = words.get(last, True) and term.is_prefix
    return list(words.items())


class Match(Struct, frozen=True):
    """A part of a text around its first match, and where matches start and end in it, in characters."""

    snippet: str
    matches: list[tuple[int, int]]


class Matcher:
    """Looks for terms in the texts of a message, a word at a time. `match` is the result, once all occur."""

    def __init__(self, terms: Sequence[Term]) -> None:
        self._terms = terms
        self._missing = set(terms)
        self._longest = max(len(term.words) for term in terms)
        self._spans: list[tuple[int, int]] = []
        self._text: str | None = None

    def scan(self, text: str) -> Iterator[None]:
        """Look at each word of a text; stop when there is nothing more to find."""
        latest: deque[tuple[str, int, int]] = deque(maxlen=self._longest)
        for word in words_of(text):
            latest.append(word)
            for term in self._terms:
                if term.ends_in(latest):
                    self._note(text, term, latest[-len(term.words)][1], word[2])
            if not self._missing and self._is_past(text, word[1]):
                return
            yield

    def _note(self, text: str, term: Term, start: int, end: int) -> None:
        self._missing.discard(term)
        if self._text is None:
            self._text = text
        if self._text is text and not self._is_past(text, end):
            self._spans.append((start, end))

    def _is_past(self, text: str, position: int) -> bool:
        """Whether a position is behind what a snippet may show."""
        if not self._spans:
            return False
        return text is not self._text or position > self._spans[0][0] + SNIPPET_LENGTH

    def match(self) -> Match | None:
        """The snippet of the texts that were scanned; None where a term does not occur."""
        if self._missing or self._text is None:
            return None
        first = min(start for start, _ in self._spans)
        # It begins at a word some characters before the first match.
        lead = max(0, first - SNIPPET_LEAD)
        start = self._text.find(" ", lead, first) + 1 or first if lead else 0
        snippet = self._text[start : start + SNIPPET_LENGTH]
        inside = {(a - start, b - start) for a, b in self._spans if b - start <= len(snippet)}
        # A match that is longer than a snippet is shown as far as it goes.
        return Match(snippet, sorted(inside) or [(first - start, len(snippet))])
