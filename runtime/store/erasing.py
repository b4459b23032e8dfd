"""What is erased in portions: the rows of sessions that are gone, and messages that long cuts took away."""

from __future__ import annotations

from msgspec import Struct

from runtime.store.state import Head
from runtime.store.statements import Rows


class AtOnce(Struct, frozen=True):
    """What one batch erases in its own transaction, in rows and bytes. More is erased in portions."""

    rows: int = 1000
    bytes: int = 16 * 1024 * 1024


class Portion(Struct, frozen=True):
    """Rows of one session to erase: parameters by statement.

    `head` is None where the session is gone: then everything in it goes, and at last the session. Else those
    messages go that were taken away. They are erased up to `last_seq`; `finished` says that none are left.
    """

    session_db_id: int
    head: Head | None
    erased: dict[str, tuple[object, ...]]
    rows: int
    last_seq: int
    finished: bool

    def write(self, rows: Rows) -> None:
        """Add what has to be written for it; for a session that lives its head says how far it is."""
        for statement, parameters in self.erased.items():
            rows[statement].append(parameters)
        if self.head is None and self.finished:
            rows["delete_session"].append((self.session_db_id,))
        elif self.head is None:
            # Where the next portion begins: it does not pass over what is erased again.
            rows["update_cut"].append((self.session_db_id, self.last_seq, 0))
