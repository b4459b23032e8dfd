"""The events of a turn, as somebody follows it: each once and in order, from memory or the database.

What this instance commits is handed over as it is committed. A follower holds a little of that; where it
is slow, or the turn runs elsewhere, it reads the events from the database when it is ready for them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Sequence

import msgspec

from runtime.errors import InvalidInput
from runtime.models import TurnEvent
from runtime.store.planned_turn import TEXT
from runtime.store.state import TurnPiece, TurnRow, decode
from runtime.store.turn_events import LAST_EVENTS, gap, token
from runtime.store.turn_reader import TurnReader

# How many characters wait in memory for a follower, at most.
BUFFER = 64 * 1024

# An event is known by its number, a piece of text also by the characters of it up to its end.
EVENT_ID = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")

Position = tuple[int, int]


def parse_position(event_id: str | None, turn: TurnRow) -> Position:
    """The position that the id of an event stands for. Raises InvalidInput."""
    if event_id is None:
        return 0, 0
    match = EVENT_ID.fullmatch(event_id)
    position = (int(match[1]), int(match[2] or 0)) if match else None
    if position is None or position > (turn.last_event, turn.text_length):
        raise InvalidInput("Last-Event-ID", "must be the id of an event of this turn")
    return position


class TurnFollower:
    """Follows a turn from behind a position on. `beginning` is what follows there, where that is known."""

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
        self.on_change((), beginning)

    def on_change(self, what: Collection[str], pieces: Sequence[TurnPiece] | None) -> None:
        """The turn may have gone on."""
        ours = [piece for piece in pieces or () if piece.turn_n == self._turn_n]
        if "deleted" in what:
            # A turn that ran has ended with its session: how is to be read, where it is still there.
            self._fall_behind()
            self.end()
        elif pieces is None or self._held > BUFFER:
            self._fall_behind()
        elif ours:
            self._pieces += ours
            self._held += sum(len(piece.data) for piece in ours)
            self._news.set()

    def _fall_behind(self) -> None:
        self._behind = True
        self._pieces, self._held = [], 0
        self._news.set()

    def end(self) -> None:
        """The store is closing, or the session is deleted: what was told so far is the last."""
        self._closing = True
        self._news.set()

    async def events(self, timeout: float) -> list[TurnEvent] | None:
        """What is new, waiting for it up to `timeout` seconds: empty when nothing came, None at the end."""
        while not self._over:
            try:
                async with asyncio.timeout(timeout):
                    await self._news.wait()
            except TimeoutError:
                # A notification may be lost without a trace: who waits long looks for itself.
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
        return [event for piece in pieces for event in self._tell(piece)]

    async def _read_on(self) -> list[TurnEvent]:
        # What is committed from here on is heard of, whether or not the database tells of it as well.
        self._behind = False
        try:
            return await self._read()
        except BaseException:
            # Cancelled, or refused by the database: the next call reads again.
            self._fall_behind()
            raise

    async def _read(self) -> list[TurnEvent]:
        n, length = self._position
        pieces, more = await self._reader.list_events(self.session_db_id, self._turn_n, n)
        events = []
        # A text that is gone may have had more to it than what was told.
        if pieces and pieces[0].n > (n if length else n + 1):
            self._position = (pieces[0].n - 1, 0)
            events.append(TurnEvent(str(pieces[0].n - 1), "gap", gap(pieces[0].n - 1)))
        events += [event for piece in pieces for event in self._tell(piece)]
        if more:
            self._fall_behind()
        elif self._pieces:
            self._news.set()
        elif not events:
            await self._look_for_the_end()
        return events

    async def _look_for_the_end(self) -> None:
        turn = await self._reader.find_turn(self.session_db_id, self._turn_id)
        if turn is None or (not turn.runs and self._position[0] >= turn.last_event):
            self._over = True

    def _tell(self, piece: TurnPiece) -> list[TurnEvent]:
        """What of a piece the follower has not heard of yet."""
        n, length = self._position
        if piece.kind == TEXT and piece.n == n and piece.offset <= length:
            return self._tell_text(piece, length - piece.offset)
        if (piece.n <= n and piece.kind != TEXT) or piece.n < n:
            return []
        if piece.n > n + 1 or piece.offset > 0:
            # Pieces are missing before this one: all of them are to be read.
            self._fall_behind()
            return []
        if piece.kind == TEXT:
            return self._tell_text(piece, 0)
        self._position = (piece.n, 0)
        self._over = piece.kind in LAST_EVENTS
        return [TurnEvent(str(piece.n), piece.kind, msgspec.Raw(piece.data.encode()))]

    def _tell_text(self, piece: TurnPiece, known: int) -> list[TurnEvent]:
        text: str = decode(f'"{piece.data}"')
        if len(text) <= known:
            return []
        self._position = (piece.n, piece.offset + len(text))
        rest = msgspec.json.encode(text[known:]).decode()[1:-1] if known else piece.data
        return [TurnEvent(f"{piece.n}-{self._position[1]}", "message", msgspec.Raw(token(rest)))]
