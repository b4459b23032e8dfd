"""A writer, readers and their cache at the same time, in memory, in an order that a test decides.

Real readers and a real cache over the tables. Each reader stops before and after every statement, and goes
on when it is its turn: what a database and an event loop can do to it.
"""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator, Sequence
from typing import Any, NamedTuple

from hypothesis import note

from runtime.errors import RequestError, SessionNotFound
from runtime.metrics import Metrics
from runtime.models import MessagePage
from runtime.store.cache import Cache
from runtime.store.changes import CommittedChange
from runtime.store.messages import encode_message
from runtime.store.read.reader import Reader
from runtime.store.records import MessageRow, SessionKey
from runtime.store.validation import json_list
from runtime.store.write.commands import (
    AppendMessages,
    Command,
    DeleteSession,
    ReplaceMessages,
    Request,
    RestoreSession,
    SwitchAgent,
    TruncateMessages,
)
from runtime.store.write.plan import plan
from tests.chance import AGENTS, DELETED, EXISTING, NOON, Chance
from tests.conversation import StoredMessage
from tests.interleavings import opening
from tests.model import Model
from tests.unit.tables import Tables

METRICS = Metrics()


@types.coroutine
def turn() -> Generator[None, None, None]:
    yield


class Turns:
    """Tables whose reader has to wait for its turn, before each statement and before each answer."""

    def __init__(self, tables: Tables, *, sole_writer: bool) -> None:
        self.sole_writer = sole_writer
        self._tables = tables

    async def fetch(self, statement: str, *parameters: object) -> Sequence[Any]:
        await turn()
        rows = await self._tables.fetch(statement, *parameters)
        await turn()
        return rows


class Event(NamedTuple):
    """What happens next: a commit here or `elsewhere`, a new reading, or a turn for the n-th one."""

    kind: str
    command: Command
    elsewhere: bool
    key: SessionKey
    how: dict[str, int]
    n: int


def draw_event(chance: Chance) -> Event:
    chance.key = chance.of((*(EXISTING,) * 7, DELETED))
    few, many = chance.number(3) + 1, 99
    return Event(
        kind=chance.of(("commit", "read", "tell", "turn", "turn", "turn", "turn")),
        command=draw_command(chance),
        elsewhere=chance.of((True, True, False)),
        key=chance.key,
        how=chance.of(
            (
                {"after": 0, "limit": many},
                {"after": 0, "limit": many},
                {"after": chance.number(9), "limit": few},
                {"before": chance.number(9) + 1, "limit": few},
                {"last": few},
                {"last": many},
            )
        ),
        n=chance.number(2),
    )


def draw_command(chance: Chance) -> Command:
    """Mostly messages that are added; at times some that go, or all."""
    appended = AppendMessages(chance.key, chance.messages())
    replaced = ReplaceMessages(chance.key, chance.messages(), create=True)
    cut = TruncateMessages(chance.key, chance.number(9))
    switched = SwitchAgent(chance.key, chance.of(AGENTS))
    erased = DeleteSession(chance.key, hard=chance.yes())
    restored = RestoreSession(chance.key)
    return chance.of((*(appended,) * 5, replaced, replaced, cut, switched, erased, restored))


class Reading:
    """A page that is being read."""

    def __init__(self, reader: Reader, key: SessionKey, how: dict[str, int], began: int) -> None:
        self.key, self.how, self.began = key, how, began
        self.answer: MessagePage | None = None
        self.ended = False
        self._page: Coroutine[None, None, MessagePage] = reader.list_messages(key, **how)  # type: ignore[arg-type]

    def go_on(self) -> bool:
        """Take a turn; whether that was the last one."""
        try:
            self._page.send(None)
        except StopIteration as done:
            self.answer, self.ended = done.value, True
        except SessionNotFound:
            self.ended = True
        return self.ended

    def finish(self) -> None:
        while not self.go_on():
            pass

    def close(self) -> None:
        self._page.close()


class TurnedHeads:
    """Finds heads in turns, as all is read here; without a loop nobody can share a look-up."""

    def __init__(self, database: Any) -> None:
        self._database = database

    async def find(self, key: tuple[str, str]) -> Any:
        rows = await self._database.fetch("list_heads", json_list([key]))
        return rows[0] if rows else None


class Simulation:
    """A writer, readers and their cache; with a sole writer memory is the truth."""

    def __init__(self, tables: Tables, *, sole_writer: bool, max_bytes: int) -> None:
        self.tables = tables
        self.sole_writer = sole_writer
        self.model = Model()
        self.moment = 0
        self._readings: list[Reading] = []
        self._untold: list[CommittedChange] = []
        for request in opening():
            self.model.apply(request)
            tables.apply(plan(tables.known([request]), [request]).rows)
        self.cache = Cache(max_bytes)
        database: Any = Turns(tables, sole_writer=sole_writer)
        self.reader = Reader(database, self.cache, METRICS, lambda: NOON, TurnedHeads(database))

    def happen(self, event: Event) -> None:
        match event.kind:
            case "commit":
                request = Request(event.command, event.command.key, NOON)
                self.commit(request, elsewhere=event.elsewhere)
            case "read":
                self._readings.append(self.read(event.key, event.how))
            case "tell":
                self.tell()
            case "turn" if self._readings:
                reading = self._readings[event.n % len(self._readings)]
                if reading.go_on():
                    self._readings.remove(reading)
                    self.check(reading)
        assert self.cache.size <= self.cache.max_bytes

    def commit(self, request: Request, *, elsewhere: bool) -> None:
        """Store a request. This instance's cache hears of its own commits, a little later."""
        note(request)
        self.tell()
        self.moment += 1
        expected = self.model.apply(request)
        planned = plan(self.tables.known([request], self.cache if self.sole_writer else None), [request])
        self.tables.apply(planned.rows)
        (outcome,) = planned.outcomes
        assert (outcome.code if isinstance(outcome, RequestError) else outcome) == expected
        if self.sole_writer or not elsewhere:
            self._untold = planned.changes

    def tell(self) -> None:
        self.moment += bool(self._untold)
        for change in self._untold:
            self.cache.apply(change)
        self._untold = []

    def read(self, key: SessionKey, how: dict[str, int]) -> Reading:
        return Reading(self.reader, key, how, self.moment)

    def check(self, reading: Reading) -> None:
        """What was read while nothing was committed is exact; else it is at least a page."""
        if reading.began == self.moment and not self._untold:
            assert_equal(reading.answer, self.expected(reading))
        elif reading.answer is not None:
            seqs = reading.answer.seqs
            assert seqs == sorted(set(seqs))
            assert all(seq <= reading.answer.last_seq for seq in seqs)

    def expected(self, reading: Reading) -> tuple[list[StoredMessage], bool, int] | None:
        session = self.model.sessions.get(reading.key)
        if session is None or session.deleted_at is not None:
            return None
        messages, more = page(session.messages, **reading.how)
        return messages, more, session.version

    def finish(self) -> None:
        """Let every reader come to its end, and read everything once more."""
        self.tell()
        for reading in self._readings:
            reading.finish()
            self.check(reading)
        for key in (EXISTING, DELETED):
            for how in ({"last": 3}, {"after": 0, "limit": 99}, {"last": 99}, {"before": 5, "limit": 2}):
                reading = self.read(key, how)
                reading.finish()
                self.check(reading)

    def close(self) -> None:
        for reading in self._readings:
            reading.close()


def page(
    messages: list[StoredMessage],
    after: int | None = None,
    before: int | None = None,
    last: int | None = None,
    limit: int = 100,
) -> tuple[list[StoredMessage], bool]:
    """A page from the whole list, and whether messages follow in the direction of reading."""
    if after is not None:
        later = [each for each in messages if each.seq > after]
        return later[:limit], len(later) > limit
    earlier = [each for each in messages if before is None or each.seq < before]
    size = last or limit
    return earlier[-size:], len(earlier) > size


def encoded(stored: StoredMessage) -> bytes:
    _, content, _, *others = (getattr(stored.message, name) for name in stored.message.__struct_fields__[:-2])
    return encode_message(MessageRow(stored.seq, stored.message.role, content, stored.timestamp, *others))


def assert_equal(answer: MessagePage | None, expected: tuple[list[StoredMessage], bool, int] | None) -> None:
    if answer is None or expected is None:
        assert answer is None
        assert expected is None
        return
    messages, more, version = expected
    assert answer.seqs == [each.seq for each in messages]
    assert [bytes(raw) for raw in answer.encoded] == [encoded(each) for each in messages]
    assert (answer.more, answer.version) == (more, version)
