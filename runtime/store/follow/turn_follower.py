"""Reads the events of a turn, each once and in order, from memory or from the database.

Events that this instance commits are passed on in memory, up to a bound. A follower that is slow, or whose
turn runs on another instance, reads them from the database when it is ready.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

import msgspec

from runtime.errors import InvalidInput
from runtime.models import TurnEvent
from runtime.store.changes import Notice
from runtime.store.read.turn_reader import TurnReader
from runtime.store.records import TurnPiece, TurnRow, decode
from runtime.store.turn_events import LAST_EVENTS, TEXT, gap, token

# The most characters that are buffered for a follower.
BUFFER = 64 * 1024

# The id of an event is its number; that of a piece of text also has the text's length up to its end.
EVENT_ID = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")

Position = tuple[int, int]


def parse_position(event_id: str | None, turn: TurnRow) -> Position:
    """The position of the event with this id. Raises InvalidInput."""
    if event_id is None:
        return 0, 0
    match = EVENT_ID.fullmatch(event_id)
    position = (int(match[1]), int(match[2] or 0)) if match else None
    if position is None or position > (turn.last_event, turn.text_length):
        raise InvalidInput("Last-Event-ID", "must be the id of an event of this turn")
    return position


class TurnFollower:
    """Follows a turn from after a position. `beginning` are the next events, if known."""

    def __init__(
        self,
        reader: TurnReader,
        session_db_id: int,
        turn_id: str,
        turn_n: int,
        position: Position = (0, 0),
        beginning: Sequence[TurnPiece] | None = None,
    ) -> None:
        self._reader = reader
        self.session_db_id = session_db_id
        self._turn_id, self._turn_n = turn_id, turn_n
        self._position = position
        self._pieces: list[TurnPiece] = []
        self._held = 0
        self._behind = False
        self._over = self._closing = False
        self._news = asyncio.Event()
        if beginning is None:
            self._fall_behind()
        else:
            self._add(beginning)

    def notify(self, notice: Notice) -> None:
        """Buffer the new events of the turn, or note that they must be read."""
        if "deleted" in notice.changed:
            # A running turn has ended with its session. Read the end, if the turn is still stored.
            self._fall_behind()
            self.end()
        elif notice.pieces is None:
            self._fall_behind()
        else:
            self._add(notice.pieces)

    def _add(self, pieces: Sequence[TurnPiece]) -> None:
        ours = [piece for piece in pieces if piece.turn_n == self._turn_n]
        if ours and self._held > BUFFER:
            self._fall_behind()
        elif ours:
            self._pieces += ours
            self._held += sum(len(piece.data) for piece in ours)
            self._news.set()

    def poll(self) -> None:
        """Read the turn: it may have new events."""
        self._fall_behind()

    def _fall_behind(self) -> None:
        self._behind = True
        self._pieces, self._held = [], 0
        self._news.set()

    def end(self) -> None:
        """End the stream after the events that are stored now."""
        self._closing = True
        self._news.set()

    async def events(self, timeout: float) -> list[TurnEvent] | None:
        """Return new events, waiting up to `timeout` seconds: empty after a timeout, None at the end."""
        while not self._over:
            try:
                async with asyncio.timeout(timeout):
                    await self._news.wait()
            except TimeoutError:
                # A notification can be lost silently: read after a long wait.
                self._fall_behind()
                return []
            self._news.clear()
            if events := await self._take():
                # There may be more, or the end.
                self._news.set()
                return events
            self._over = self._over or self._closing
        return None

    async def _take(self) -> list[TurnEvent]:
        if self._behind:
            return await self._read_on()
        pieces, self._pieces, self._held = self._pieces, [], 0
        return [event for piece in pieces for event in self._events_of(piece)]

    async def _read_on(self) -> list[TurnEvent]:
        # Events committed from here on are buffered in memory, even if this read returns them as well.
        self._behind = False
        try:
            return await self._read()
        except BaseException:
            # After a cancellation or an error the next call reads again.
            self._fall_behind()
            raise

    async def _read(self) -> list[TurnEvent]:
        n, length = self._position
        pieces, more = await self._reader.list_events(self.session_db_id, self._turn_n, n)
        events = []
        # A deleted text may have been longer than what was returned.
        if pieces and pieces[0].n > (n if length else n + 1):
            self._position = (pieces[0].n - 1, 0)
            events.append(TurnEvent(str(pieces[0].n - 1), "gap", gap(pieces[0].n - 1)))
        events += [event for piece in pieces for event in self._events_of(piece)]
        if more:
            self._fall_behind()
        elif self._pieces:
            self._news.set()
        elif not events:
            turn = await self._reader.find_turn(self.session_db_id, self._turn_id)
            if turn is None or (not turn.runs and self._position[0] >= turn.last_event):
                self._over = True
        return events

    def _events_of(self, piece: TurnPiece) -> list[TurnEvent]:
        """The part of a piece that the follower has not returned yet."""
        n, length = self._position
        if piece.kind == TEXT and piece.n == n and piece.offset <= length:
            return self._text_events(piece, length - piece.offset)
        if (piece.n <= n and piece.kind != TEXT) or piece.n < n:
            return []
        if piece.n > n + 1 or piece.offset > 0:
            # Pieces are missing before this one: read all of them.
            self._fall_behind()
            return []
        if piece.kind == TEXT:
            return self._text_events(piece, 0)
        self._position = (piece.n, 0)
        self._over = piece.kind in LAST_EVENTS
        return [TurnEvent(str(piece.n), piece.kind, msgspec.Raw(piece.data.encode()))]

    def _text_events(self, piece: TurnPiece, start: int) -> list[TurnEvent]:
        text: str = decode(f'"{piece.data}"')
        if len(text) <= start:
            return []
        self._position = (piece.n, piece.offset + len(text))
        rest = msgspec.json.encode(text[start:]).decode()[1:-1] if start else piece.data
        return [TurnEvent(f"{piece.n}-{self._position[1]}", "message", msgspec.Raw(token(rest)))]
