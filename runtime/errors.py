"""Every error of ours.

    AgentRuntimeError
    ├── RequestError                what the caller asked cannot be done; nothing was changed
    │   ├── InvalidInput            the input does not fit: `problems` names each place
    │   ├── SessionNotFound
    │   ├── ApprovalNotFound
    │   ├── SessionExists
    │   ├── ApprovalExists
    │   ├── ApprovalDecided
    │   ├── ApprovalExpired
    │   ├── VersionMismatch
    │   ├── KeyReused               the idempotency key belongs to another request
    │   └── RefusedByDatabase       the database would not take this one's data (W8)
    ├── NotStored                   try again later: `retry_after` says when, in seconds
    │   ├── Overloaded              the queue is full (W9)
    │   ├── DeadlinePassed          not stored before the deadline (W8)
    │   ├── Unconfirmed             sent to be committed, and no answer before the deadline (W7)
    │   └── ShuttingDown
    ├── DatabaseError               raised by `db`, with the driver's error as its cause
    │   ├── DatabaseUnavailable     no connection, or it broke, or no answer in time
    │   │   └── CommitUnknown       it broke during COMMIT: in or not in is not known (W7)
    │   ├── DatabaseConflict        another transaction came first: the same again may succeed
    │   └── DataRefused             the database refuses the data
    └── StartupError                the program cannot start: one line for the operator
        ├── SettingsError
        ├── DatabaseInUse           another process owns the SQLite file (W13)
        ├── MigrationError
        └── StatementError          a file in sql/ is wrong

Each has a `code`: stable, lower case, for programs.
"""

from __future__ import annotations

from dataclasses import dataclass


class AgentRuntimeError(Exception):
    """The root of every error that this package raises."""

    code = "internal_error"


class RequestError(AgentRuntimeError):
    """What the caller asked cannot be done; nothing was changed."""

    code = "bad_request"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with an input: where (a path such as `$.messages[0].role`) and what."""

    path: str
    message: str


class InvalidInput(RequestError):
    """The input does not fit. `problems` names each place and what would be right there."""

    code = "invalid_input"

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{message} - at `{path}`")
        self.problems = (Problem(path, message),)


class SessionNotFound(RequestError):
    """No such session, or it is deleted."""

    code = "session_not_found"

    def __init__(self, session_id: str, *, deleted: bool = False) -> None:
        state = "is deleted; restore it to use it again" if deleted else "does not exist"
        super().__init__(f"session {session_id!r} {state}")


class ApprovalNotFound(RequestError):
    """The session has no approval of this call id."""

    code = "approval_not_found"

    def __init__(self, session_id: str, call_id: str) -> None:
        super().__init__(f"session {session_id!r} has no approval for call {call_id!r}")


class SessionExists(RequestError):
    """A session of this id exists already, perhaps a deleted one."""

    code = "session_exists"

    def __init__(self, session_id: str, *, deleted: bool = False) -> None:
        note = ", deleted: restore it to use it again" if deleted else ""
        super().__init__(f"session {session_id!r} exists already{note}")


class ApprovalExists(RequestError):
    """The session has an approval of this call id already."""

    code = "approval_exists"

    def __init__(self, session_id: str, call_id: str) -> None:
        super().__init__(f"session {session_id!r} has an approval for call {call_id!r} already")


class ApprovalDecided(RequestError):
    """The approval was decided before, and otherwise."""

    code = "approval_decided"

    def __init__(self, call_id: str, status: str) -> None:
        super().__init__(f"call {call_id!r} was decided already: {status}")


class ApprovalExpired(RequestError):
    """The time to decide this approval has passed."""

    code = "approval_expired"

    def __init__(self, call_id: str) -> None:
        super().__init__(f"the time to decide call {call_id!r} has passed")


class VersionMismatch(RequestError):
    """The session has moved on from the version that the caller named; it is at `version` now."""

    code = "version_mismatch"

    def __init__(self, session_id: str, expected: int, actual: int) -> None:
        state = f"is at version {actual}" if actual else "does not exist, and so is at version 0"
        super().__init__(f"session {session_id!r} {state}, not {expected}")
        self.version = actual


class KeyReused(RequestError):
    """The idempotency key was used for another request."""

    code = "idempotency_key_reused"

    def __init__(self, key: str) -> None:
        super().__init__(f"the idempotency key {key!r} was used for another request; use a new one")


class RefusedByDatabase(RequestError):
    """The database would not take this command's data; its neighbours are stored (W8)."""

    code = "refused_by_database"


class NotStored(AgentRuntimeError):
    """Not stored for now. `retry_after` says, in seconds, when to try again."""

    code = "not_stored"
    retry_after = 1


class Overloaded(NotStored):
    """The queue of writes is full (W9)."""

    code = "overloaded"


class DeadlinePassed(NotStored):
    """The write did not reach the database before its deadline; it will not be stored (W8)."""

    code = "not_stored"


class Unconfirmed(NotStored):
    """The write was sent to be committed and the database did not answer before the deadline (W7).

    Whether it is stored shows later: a repeat under its idempotency key is safe.
    """

    code = "unconfirmed"


class ShuttingDown(NotStored):
    """The store is closing and takes no more writes."""

    code = "shutting_down"


class DatabaseError(AgentRuntimeError):
    """The database said no, or nothing. The driver's error is the cause."""

    code = "database_error"


class DatabaseUnavailable(DatabaseError):
    """No connection to the database, or it broke, or there was no answer in time."""

    code = "database_unavailable"
    retry_after = 1


class CommitUnknown(DatabaseUnavailable):
    """The connection broke during COMMIT: whether the transaction is in has to be looked up (W7)."""


class DatabaseConflict(DatabaseError):
    """Another transaction came first; the same transaction, begun again, may succeed."""

    code = "database_conflict"


class DataRefused(DatabaseError):
    """The database refuses the data of a statement."""

    code = "data_refused"


class StartupError(AgentRuntimeError):
    """The program cannot start. The message is one line for the operator."""

    code = "startup_error"


class SettingsError(StartupError):
    """A setting is unknown or wrong. The message names it and what would be right."""

    code = "settings_error"


class DatabaseInUse(StartupError):
    """Another process owns the SQLite file (W13). The message names it."""

    code = "database_in_use"


class MigrationError(StartupError):
    """The schema is not what the program needs, and could not be made so."""

    code = "migration_error"


class StatementError(StartupError):
    """A file in sql/ is wrong: a name, a parameter, or a statement that one dialect lacks."""

    code = "statement_error"
