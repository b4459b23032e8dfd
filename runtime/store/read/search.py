"""Searches messages: candidates from the index of words, then what their texts say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from datetime import datetime

from msgspec import Struct

from runtime.db.database import Database, Row
from runtime.models import MAX_SEQ, Key, Role, SearchHit, SearchPage, Seq, Time
from runtime.store.paging import count_fitting, decode_cursor, encode_cursor
from runtime.store.records import decode_optional, encode_text
from runtime.store.validation import json_list
from runtime.store.words import (
    IDS_OF_A_MOMENT,
    WORDS_AT_A_TIME,
    Match,
    Matcher,
    Term,
    first_id,
    index_terms,
    owner_mark,
    parse_query,
    role_mark,
    session_mark,
    texts_of,
)

# Candidates that are looked at first, and at most, at a time; and the bytes of their texts.
FIRST_CANDIDATES, MOST_CANDIDATES, TEXT_BYTES = 25, 1000, 1024 * 1024
# Seconds after which a page ends before its limit. The next one goes on from there.
PAGE_SECONDS = 1.0

Position = tuple[Time, Key, Seq]


class Wanted(Struct, frozen=True):
    """What hits must be like: the owner's, and of this session, role, agent and time where they are given."""

    owner: str
    session_id: str | None = None
    role: Role | None = None
    agent: str | None = None
    after: datetime | None = None
    before: datetime | None = None

    @property
    def marks(self) -> list[str]:
        """The marks that the entries of hits have."""
        marks = [owner_mark(self.owner)]
        marks += [session_mark(self.session_id)] if self.session_id is not None else []
        return marks + ([role_mark(self.role)] if self.role is not None else [])

    @property
    def filters(self) -> tuple[object, ...]:
        """The parameters of the statement that lists candidates."""
        return self.owner, self.session_id, self.role, self.agent, self.after, self.before


async def search(
    database: Database, query: str, wanted: Wanted, limit: int, cursor: str | None, *, complete: bool
) -> SearchPage:
    """A page of hits, latest first: it ends early after PAGE_SECONDS. Raises InvalidInput."""
    terms = parse_query(query)
    hits: list[SearchHit] = []
    last: Row | None = None
    start = await _find_position(database, wanted.owner, cursor)
    deadline = time.monotonic() + PAGE_SECONDS
    async for row, match in _scan(database, terms, wanted, start):
        if match is not None and last is not None and len(hits) == limit:
            return SearchPage(hits, _encode_cursor(last), complete)
        if match is not None:
            hits.append(_hit(row, match))
            last = row
        if time.monotonic() > deadline:
            return SearchPage(hits, _encode_cursor(row), complete)
    return SearchPage(hits, None, complete)


async def _scan(
    database: Database, terms: Sequence[Term], wanted: Wanted, below: int
) -> AsyncIterator[tuple[Row, Match | None]]:
    """Candidates, latest first, and where they match; None where they do not."""
    words, count = encode_text(index_terms(terms, wanted.marks)), FIRST_CANDIDATES
    while True:
        rows = await database.fetch("list_search_candidates", words, below, 0, count, *wanted.filters)
        async for row, match in _matches(database, terms, rows):
            yield row, match
        if len(rows) < count:
            return
        below, count = rows[-1]["id"], min(2 * count, MOST_CANDIDATES)


async def _matches(
    database: Database, terms: Sequence[Term], rows: Sequence[Row]
) -> AsyncIterator[tuple[Row, Match | None]]:
    """Each candidate and its match. Texts are read as far as they are needed, some at a time (R6)."""
    while rows:
        count = max(1, count_fitting([row["size"] if row["fits"] else 0 for row in rows], TEXT_BYTES))
        portion, rows = rows[:count], rows[count:]
        places = [(row["session_db_id"], row["seq"]) for row in portion if row["fits"]]
        found = await database.fetch("list_search_texts", json_list(places)) if places else ()
        texts = {(id, seq): (content, tool_calls) for id, seq, content, tool_calls in found}
        for row in portion:
            text = texts.get((row["session_db_id"], row["seq"]))
            yield row, None if text is None else await _find_match(terms, texts_of(*text))


async def _find_match(terms: Sequence[Term], texts: Sequence[str]) -> Match | None:
    matcher = Matcher(terms)
    for text in texts:
        for count, _ in enumerate(matcher.scan(text), 1):
            if count % WORDS_AT_A_TIME == 0:
                await asyncio.sleep(0)
    return matcher.match()


def _hit(row: Row, match: Match) -> SearchHit:
    return SearchHit(
        session_id=row["session_id"],
        title=decode_optional(row["title"]),
        seq=row["seq"],
        role=row["role"],
        timestamp=row["timestamp"],
        snippet=match.snippet,
        matches=match.matches,
    )


def _encode_cursor(row: Row) -> str:
    """The cursor of a page that ends with this candidate.

    It names a message of the owner: an id would reveal how many messages others have stored.
    """
    return encode_cursor((row["timestamp"], row["session_id"], row["seq"]))


async def _find_position(database: Database, owner: str, cursor: str | None) -> int:
    """The id below which a page begins."""
    if cursor is None:
        return MAX_SEQ
    at, session_id, seq = decode_cursor(cursor, Position)
    rows = await database.fetch("find_search_entry", owner, session_id, seq)
    # If the message is gone since, others of its moment are listed again.
    return rows[0]["id"] if rows else min(first_id(at) + IDS_OF_A_MOMENT, MAX_SEQ)
