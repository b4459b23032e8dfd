"""Server-sent events read from bytes, as the WHATWG HTML standard (section 9.2.6) interprets them."""

from __future__ import annotations

from runtime.errors import ModelGarbled

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventStreamParser:
    """Takes a stream in pieces, cut anywhere. An event may have `limit` bytes; only its data matters here."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._line = bytearray()
        self._data: list[str] = []
        self._at_start = True
        self._after_return = False

    def feed(self, piece: bytes) -> list[str]:
        """The data of each event that is complete with this piece. Raises ModelGarbled beyond the limit."""
        events: list[str] = []
        for part in self._without_split_line_end(piece).splitlines(keepends=True):
            self._grow(part)
            if part.endswith((b"\n", b"\r")):
                self._end_line(events)
        return events

    def _without_split_line_end(self, piece: bytes) -> bytes:
        """A line ended at its \\r, without waiting for the \\n that may belong to it: drop that one."""
        rest = piece.removeprefix(b"\n") if self._after_return else piece
        if piece:
            self._after_return = piece.endswith(b"\r")
        return rest

    def _grow(self, part: bytes) -> None:
        self._line += part
        self._size += len(part)
        if self._size > self._limit:
            raise ModelGarbled(f"the language model sent an event of more than {self._limit} bytes")

    def _end_line(self, events: list[str]) -> None:
        line = bytes(self._line).rstrip(b"\r\n")
        self._line.clear()
        if self._at_start:
            line = line.removeprefix(BYTE_ORDER_MARK)
            self._at_start = False
        if line:
            self._take_field(line)
        else:
            self._end_event(events)

    def _take_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" ").decode(errors="replace"))

    def _end_event(self, events: list[str]) -> None:
        if self._data:
            events.append("\n".join(self._data))
        self._data.clear()
        self._size = 0
