"""What is erased in portions: the rows of sessions that are gone, and messages that long cuts took away."""

from __future__ import annotations

from msgspec import Struct

from runtime.store.records import Head
from runtime.store.write.statements import Rows


class AtOnce(Struct, frozen=True):
    """What one batch erases in its own transaction, in rows and bytes. More is erased in portions."""

    rows: int = 1000
    bytes: int = 16 * 1024 * 1024


class Portion(Struct, frozen=True):
    """Rows of one session to erase: parameters by statement.

    `head` is None where the session is gone: then everything in it goes, and at last the session. Else those
    messages go that were taken away. They begin behind `after`; `finished` says that nothing is left.
    """

    session_db_id: int
    head: Head | None
    erased: dict[str, tuple[object, ...]]
    rows: int
    after: int
    finished: bool

    def write(self, rows: Rows) -> None:
        """Add what has to be written for it; of a session that lives its head says how far it is."""
        for statement, parameters in self.erased.items():
            rows[statement].append(parameters)
        if self.head is None and self.finished:
            rows["delete_session"].append((self.session_db_id,))
        elif self.head is None:
            # The next portion passes over this one, and over none before. Postgres leaves dead entries in the
            # index until somebody passes over them: else the deletion of the session would, over all of them.
            rows["update_cut"].append((self.session_db_id, self.after, 0))
