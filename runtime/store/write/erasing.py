"""Portions: rows of deleted sessions, and messages that long cuts removed, erased a part at a time."""

from __future__ import annotations

from msgspec import Struct

from runtime.store.records import Head
from runtime.store.write.statements import Rows


class AtOnce(Struct, frozen=True):
    """The most that a batch erases in its own transaction. The rest is erased in portions.

    To take words out of SQLite's index takes 0.1 s a MiB of text.
    """

    rows: int = 1000
    bytes: int = 2 * 1024 * 1024


class Portion(Struct, frozen=True):
    """Rows of one session to erase: `erased` has the parameters by statement.

    `head` is None for a deleted session: all of its rows are erased, and finally its own row. Otherwise the
    messages that a cut removed are erased. The messages left begin after number `after`; `finished` is true
    if nothing is left.
    """

    session_db_id: int
    head: Head | None
    erased: dict[str, tuple[object, ...]]
    rows: int
    after: int
    finished: bool

    def write(self, rows: Rows) -> None:
        """Add the rows to write. The progress of a live session is written with its head."""
        for statement, parameters in self.erased.items():
            rows[statement].append(parameters)
        if self.head is None and self.finished:
            rows["delete_session"].append((self.session_db_id,))
        elif self.head is None:
            # The next portion starts here. It scans the index entries of this portion only; Postgres removes
            # dead entries when they are scanned, or the session's deletion would scan all of them at once.
            rows["update_cut"].append((self.session_db_id, self.after, 0))
