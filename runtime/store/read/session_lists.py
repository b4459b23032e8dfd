"""Lists an owner's sessions: latest activity first, filtered, in pages.

A filter is one or two ranges of values of a label, and an index finds the sessions that have it. Of the
filters of a list, the one that fewest sessions pass decides how a page is read. If they are few, all of them
are read and sorted. Otherwise the sessions are read in the order of the list, as many as it takes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from msgspec import Struct, structs

from runtime.db.database import Database, Row
from runtime.errors import DatabaseUnavailable, InvalidInput
from runtime.models import Key, Session, SessionPage
from runtime.store import labels
from runtime.store.paging import PAGE_BYTES, Listing, decode_cursor, encode_cursor, fetch_page, wrong_cursor
from runtime.store.read.reader import BEGINNING_OF_TIME, END_OF_IDS, END_OF_TIME, Reader
from runtime.store.records import SessionKey, session_from
from runtime.store.validation import json_list, json_text

# As many sessions are sorted for a page: about as much work as to read on in the list until it is full where
# they are a two-hundredth of a million.
FEW = 5000
# As many are sorted where reading the list has found none: in half a second.
MANY = 100_000
# As many sessions are read in one statement.
STEPS = 10_000
# The most members that one list is filtered by.
MAX_MEMBERS = 10

# A member that is a number, a boolean or null is compared as its JSON.
_JSON = re.compile(r"true|false|null|-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_TIMES = ("created_after", "created_before", "active_after", "active_before")
_TICK = timedelta(microseconds=1)

Scalar = str | int | float | bool | None
Members = Mapping[str, Scalar] | Sequence[tuple[str, Scalar]]
Position = tuple[datetime, Key]
# A position in a list: the time and the id of a session.
Place = tuple[datetime, int]
Span = tuple[str, str]


class SessionFilter(Struct, frozen=True):
    """The sessions that a list has: all that fulfil every condition that is set.

    Each member of `metadata` is compared with its text, where it is a string, or with its JSON, where it is a
    number, a boolean or null. Times are bounds that are left out themselves.
    """

    agent: str | None = None
    is_active: bool | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    active_after: datetime | None = None
    active_before: datetime | None = None
    metadata: Members = ()

    def conditions(self) -> list[tuple[str, list[Span]]]:
        """The labels that a session must have, each with the ranges of its value. Raises InvalidInput."""
        found: list[tuple[str, list[Span]]] = []
        if self.agent is not None:
            found.append((labels.AGENT, [(self.agent, self.agent)]))
        if self.is_active is not None:
            value = labels.active_label(self.is_active)
            found.append((labels.IS_ACTIVE, [(value, value)]))
        if self.created_after is not None or self.created_before is not None:
            low = self.created_after or BEGINNING_OF_TIME
            high = self.created_before or END_OF_TIME
            # The bounds are left out, and no time is between two ticks.
            low = low if self.created_after is None else _moved(low, _TICK)
            high = high if self.created_before is None else _moved(high, -_TICK)
            found.append((labels.CREATED_AT, [(labels.time_label(low), labels.time_label(high))]))
        return found + _member_conditions(self.metadata)

    def checked(self) -> SessionFilter:
        """The same with all times in UTC. Raises InvalidInput for a time without a time zone."""
        given = {name: getattr(self, name) for name in _TIMES if getattr(self, name) is not None}
        try:
            times = {name: time.astimezone(UTC) for name, time in given.items() if time.tzinfo is not None}
        except OverflowError:
            times = {}
        for name in given.keys() - times.keys():
            raise InvalidInput(name, "Expected a time with its time zone, in UTC within the years 1 to 9999")
        return structs.replace(self, **times)

    def first_place(self) -> Place:
        """The place before the first session that may be listed."""
        return (END_OF_TIME, END_OF_IDS) if self.active_before is None else (self.active_before, 0)

    def last_place(self) -> Place:
        """The place behind the last session that may be listed."""
        return (BEGINNING_OF_TIME, 0) if self.active_after is None else (self.active_after, END_OF_IDS)


EVERY_SESSION = SessionFilter()
_EVERYWHERE = (EVERY_SESSION.last_place(), EVERY_SESSION.first_place())


def _moved(time: datetime, step: timedelta) -> datetime:
    try:
        return time + step
    except OverflowError:
        return time


def _member_conditions(metadata: Members) -> list[tuple[str, list[Span]]]:
    """The labels that members must have."""
    members = list(metadata.items() if isinstance(metadata, Mapping) else metadata)
    if len(members) > MAX_MEMBERS:
        raise InvalidInput("metadata", f"Expected at most {MAX_MEMBERS} members, got {len(members)}")
    found: list[tuple[str, list[Span]]] = []
    for key, wanted in members:
        place = f"metadata.{key}"
        json_text(key, place)
        texts = [json_text(wanted, place)]
        if isinstance(wanted, str) and _JSON.fullmatch(wanted):
            texts.append(wanted)
        values = map(labels.member_value, texts)
        found.append((labels.member_name(key), [(value, value) for value in values]))
    return found


class SessionLists:
    """Lists the sessions of an owner."""

    def __init__(self, database: Database, reader: Reader) -> None:
        self._database = database
        self._reader = reader
        self._is_labelled = False

    async def list_sessions(
        self,
        owner: str,
        wanted: SessionFilter = EVERY_SESSION,
        *,
        limit: int,
        cursor: str | None,
        include_deleted: bool,
        count: bool,
    ) -> SessionPage:
        """A page of an owner's sessions, latest activity first. Raises InvalidInput for a bad cursor."""
        conditions = wanted.conditions()
        total: int | msgspec.UnsetType = msgspec.UNSET
        place = await self._place_of(owner, cursor)
        if wanted == EVERY_SESSION:
            kind = "sessions_and_deleted" if include_deleted else "sessions"
            listing = Listing(f"list_{kind}", f"measure_{kind}")
            rows, more = await fetch_page(self._database, listing, (owner, *place), limit, PAGE_BYTES)
            if count:
                total = (await self._database.fetch(f"count_{kind}", owner))[0]["total"]
        else:
            if conditions:
                await self._check_is_labelled()
            found = _FilteredList(self._database, owner, wanted, conditions, include_deleted)
            rows, more = await found.fetch(place, limit)
            if count:
                total = await found.count()
        return self._page(owner, [session_from(row) for row in rows], more, total)

    def _page(
        self, owner: str, sessions: list[Session], more: bool, total: int | msgspec.UnsetType
    ) -> SessionPage:
        for session in sessions:
            self._reader.note_version(SessionKey(owner, session.session_id), session.version)
        next_cursor = None
        if more:
            next_cursor = encode_cursor((sessions[-1].last_activity, sessions[-1].session_id))
        return SessionPage(sessions, next_cursor, total)

    async def _place_of(self, owner: str, cursor: str | None) -> Place:
        """The place after which a page of sessions begins.

        A cursor names a session of the owner: a row's id would reveal how many sessions other owners have.
        """
        if cursor is None:
            return END_OF_TIME, END_OF_IDS
        activity, session_id = decode_cursor(cursor, Position)
        try:
            activity = activity.astimezone(UTC)
        except (ValueError, OverflowError):
            raise wrong_cursor() from None
        head = await self._reader.find_head(SessionKey(owner, session_id))
        # If the session was erased since, others with the same time are listed again.
        return activity, END_OF_IDS if head is None else head.id

    async def _check_is_labelled(self) -> None:
        """Raise DatabaseUnavailable while sessions of an earlier version have no labels yet."""
        if not self._is_labelled:
            [row] = await self._database.fetch("find_unlabelled_session")
            if row["found"]:
                raise DatabaseUnavailable(
                    "sessions of an earlier version are still being indexed; filter again later"
                )
            self._is_labelled = True


class _FilteredList:
    """The sessions of an owner that pass a filter."""

    def __init__(
        self,
        database: Database,
        owner: str,
        wanted: SessionFilter,
        conditions: Sequence[tuple[str, list[Span]]],
        include_deleted: bool,
    ) -> None:
        self._database = database
        self._owner = owner
        self._wanted = wanted
        self._conditions = conditions
        self._encoded = json_list([(name, *spans[0], *spans[-1]) for name, spans in conditions])
        self._include_deleted = include_deleted

    async def fetch(self, place: Place, limit: int) -> tuple[Sequence[Row], bool]:
        """The sessions after a place, and whether more follow. A page may end before the limit."""
        after, before = self._wanted.last_place(), min(place, self._wanted.first_place())
        if (rarest := await self._find_rarest(FEW)) is not None:
            return await self._sort(rarest, after, before, limit)
        return await self._walk(after, before, limit)

    async def _sort(
        self, rarest: tuple[str, str], after: Place, before: Place, limit: int
    ) -> tuple[Sequence[Row], bool]:
        """Read all sessions that fulfil one condition, and sort those that pass."""
        listing = Listing("list_labelled_sessions", "measure_labelled_sessions")
        parameters = (self._owner, *rarest, self._encoded, self._include_deleted, *after, *before)
        return await fetch_page(self._database, listing, parameters, limit, PAGE_BYTES)

    async def count(self) -> int:
        """How many sessions pass. Where several common filters are combined, it reads all that pass one."""
        after, before = self._wanted.last_place(), self._wanted.first_place()
        if not self._conditions:
            counting: tuple[object, ...] = ("count_active_sessions", self._include_deleted, *after, *before)
        elif len(self._conditions) == 1 and (after, before) == _EVERYWHERE:
            name, spans = self._conditions[0]
            counting = ("count_sessions_with_label", name, json_list(spans), self._include_deleted)
        else:
            name, spans = self._conditions[0]
            rarest = await self._find_rarest(MANY) or (name, json_list(spans))
            ends = (self._include_deleted, *after, *before)
            counting = ("count_labelled_sessions", *rarest, self._encoded, *ends)
        statement, *parameters = counting
        [row] = await self._database.fetch(str(statement), self._owner, *parameters)
        return int(row["total"])

    async def _find_rarest(self, most: int) -> tuple[str, str] | None:
        """The condition that fewest sessions fulfil, as its name and its ranges; None if all have more."""
        found: tuple[str, str] | None = None
        for name, spans in self._conditions:
            condition = (name, json_list(spans))
            [row] = await self._database.fetch("count_labels", self._owner, *condition, most + 1)
            if row["found"] <= most:
                found, most = condition, row["found"] - 1
        return found

    async def _walk(self, after: Place, before: Place, limit: int) -> tuple[Sequence[Row], bool]:
        """Read the list on until some sessions pass. Each statement reads a short span of it (R7).

        Where none passes in the first span, sorting many is less work than reading all of the list.
        """
        start = before
        listing = Listing("list_walked_sessions", "measure_walked_sessions")
        while True:
            span = (*after, *before)
            ends: Sequence[Row] = ()
            if self._conditions:
                place = (self._owner, self._include_deleted, *span, STEPS)
                ends = await self._database.fetch("find_end_of_walk", *place)
            low: Place = (ends[0]["last_activity"], ends[0]["id"] - 1) if ends else after
            parameters = (self._owner, self._encoded, self._include_deleted, *low, *before)
            rows, more = await fetch_page(self._database, listing, parameters, limit, PAGE_BYTES)
            if rows or not ends:
                return rows, more or bool(ends)
            if before == start and (rarest := await self._find_rarest(MANY)) is not None:
                return await self._sort(rarest, after, before, limit)
            before = (ends[0]["last_activity"], ends[0]["id"])
