"""A turn while a batch is planned: changed in memory, then converted to the rows to write."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from msgspec import structs

from runtime.models import TurnStatus
from runtime.store.records import JsonText, TurnPiece, TurnRow, decode
from runtime.store.turn_events import TEXT, NewEvent
from runtime.store.write.statements import Rows

# A text is continued in the same row up to about this many characters: small enough for Postgres to update
# the row in place, large enough for a long answer to take only tens of rows.
TEXT_ROW = 2000


class PlannedTurn:
    """The last turn of a session. `stored` is None for a new one."""

    def __init__(self, session_db_id: int, row: TurnRow, *, stored: TurnRow | None) -> None:
        self.session_db_id = session_db_id
        self.row, self.stored = row, stored
        # The parts of events that this batch adds; below, the same as rows.
        self.pieces: list[TurnPiece] = []
        self.interrupted = False
        self._new_events: dict[int, list[str]] = {}
        self._kinds: dict[int, str] = {}
        self._longer_text: dict[int, list[str]] = {}

    @property
    def position(self) -> tuple[int, int]:
        return self.row.last_event, self.row.text_length

    def change(self, **fields: object) -> None:
        self.row = structs.replace(self.row, **fields)

    def renew(self) -> None:
        """Raise the heartbeat."""
        self.change(beat=self.row.beat + 1)

    def append_text(self, texts: Sequence[JsonText]) -> None:
        """Add pieces of text, to the last event if it is text and has room."""
        for text in filter(None, texts):
            if not 0 < self.row.text_length < TEXT_ROW:
                self._add(TEXT)
            n, offset = self.position
            parts = self._new_events.get(n)
            (self._longer_text.setdefault(n, []) if parts is None else parts).append(text)
            self.pieces.append(TurnPiece(self.row.n, n, TEXT, offset, text))
            self.change(text_length=offset + len(decode(f'"{text}"')))

    def append_event(self, event: NewEvent) -> None:
        """Add an event."""
        self._add(event.kind)
        self._new_events[self.row.last_event].append(event.data)
        self.pieces.append(TurnPiece(self.row.n, self.row.last_event, event.kind, 0, event.data))

    def end(self, at: datetime, status: TurnStatus, error: JsonText | None = None) -> None:
        self.change(status=status, ended_at=max(at, self.row.started_at), error=error)

    def unfinished(self, stored: JsonText) -> JsonText:
        """The text after the last event of another kind; `stored` is that from before this batch."""
        texts: list[JsonText] = []
        for piece in reversed(self.pieces):
            if piece.kind != TEXT:
                return "".join(reversed(texts))
            texts.append(piece.data)
        return stored + "".join(reversed(texts))

    def _add(self, kind: str) -> None:
        self.change(last_event=self.row.last_event + 1, text_length=0)
        self._new_events[self.row.last_event] = []
        self._kinds[self.row.last_event] = kind

    def write(self, rows: Rows) -> None:
        """Add the rows to write, after the whole batch is planned."""
        if self.stored is None:
            rows["insert_turn"].append((self.session_db_id, *structs.astuple(self.row), True))
        elif self.row != self.stored:
            row = self.row
            rows["update_turn"].append(
                (
                    *(self.session_db_id, row.n, row.status, row.agent, row.ended_at, row.error),
                    *(row.input_tokens, row.output_tokens, row.beat, row.stop_requested),
                    *(row.last_event, row.text_length),
                )
            )
        name = (self.session_db_id, self.row.n)
        rows["insert_turn_event"] += [
            (*name, n, self._kinds[n], "".join(parts)) for n, parts in self._new_events.items()
        ]
        rows["append_turn_text"] += [(*name, n, "".join(parts)) for n, parts in self._longer_text.items()]
