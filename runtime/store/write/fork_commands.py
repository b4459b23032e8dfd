"""The commands of forks: copies of sessions, made inside the database.

A short copy is made in the transaction that creates the fork. A long one is made before it, in portions, in a
hidden session, so that no other write waits long. The transaction that creates the fork then copies what is
missing and reveals the session.
"""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType

from runtime.store.records import JsonText
from runtime.store.write.commands import Command


class ForkSession(Command, frozen=True):
    """Create the session as a copy of session `source` of the same owner, up to message `after`, or whole.

    A title and metadata that are not set are those of the source.
    """

    source: str
    after: int | None = None
    title: JsonText | UnsetType | None = UNSET
    metadata: JsonText | UnsetType = UNSET


class BeginFork(Command, frozen=True):
    """Create a hidden session for the copies of an instance. The command names no session."""

    instance: str


class CopyMessages(Command, frozen=True):
    """Copy the messages of a session after one number, up to another, into a hidden session."""

    source_db_id: int
    session_db_id: int
    after: int
    through: int


class AbandonForks(Command, frozen=True):
    """Let hidden sessions be erased. The command names no session."""

    session_db_ids: tuple[int, ...]


class CopiedRows(Struct, frozen=True):
    """The rows that the transaction of a fork copies: messages and switches, up to these numbers."""

    source_db_id: int
    after: int
    through: int
    last_switch: int
    is_revealed: bool
