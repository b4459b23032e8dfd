"""All errors of this package.

    AgentRuntimeError
    ├── RequestError                the request cannot be carried out; nothing was changed
    │   ├── InvalidInput            the input is invalid: `problems` names each place
    │   ├── SessionNotFound
    │   ├── ApprovalNotFound
    │   ├── SessionExists
    │   ├── ApprovalExists
    │   ├── ApprovalDecided
    │   ├── ApprovalExpired
    │   ├── VersionMismatch
    │   ├── KeyReused               the idempotency key belongs to another request
    │   ├── TurnNotFound
    │   ├── MetricsNotFound
    │   ├── SearchOff               the search is switched off
    │   ├── TurnRunning             a session has one turn at a time
    │   ├── TurnLost                the turn has ended, or another instance has taken it over
    │   ├── CutNotMeasured          internal: the store measures a long truncation and retries
    │   ├── ForkNotCopied           internal: the store copies a long session and retries
    │   ├── MetadataNotLoaded       internal: the store retries a merge into large metadata
    │   ├── CallNotOpen             the tool call is not waiting for a result
    │   ├── ApprovalPending         the tool call is waiting for a decision, not for a result
    │   ├── Unauthorized            missing or invalid credentials
    │   ├── Forbidden               the caller is not allowed to do this
    │   ├── TooManyRequests         the client has reached its quota: `retry_after`, in seconds
    │   ├── TokenNotFound
    │   ├── TokenNotShown           a new token could not be printed, and was revoked
    │   └── RefusedByDatabase       the database refuses this request's data (W8)
    ├── NotStored                   try again later, after `retry_after` seconds
    │   ├── Overloaded              the queue of writes is full (W9)
    │   ├── DeadlinePassed          not stored before the deadline (W8)
    │   ├── Unconfirmed             sent to COMMIT, without an answer before the deadline (W7)
    │   └── ShuttingDown
    ├── IssuerUnavailable           the JWT issuer's keys are unavailable: `retry_after`, in seconds
    ├── DatabaseError               raised by `db`, with the driver's error as its cause
    │   ├── DatabaseUnavailable     no connection, a broken connection, or no answer in time
    │   │   └── CommitUnknown       the connection broke during COMMIT: the result is unknown (W7)
    │   ├── DatabaseDamaged         the database file is damaged: a retry does not help
    │   ├── DatabaseConflict        another transaction was faster: a retry may succeed
    │   └── DataRefused             the database refuses the data
    ├── TurnFailed                  a turn ended without an answer
    │   ├── TooManySteps            a limit of the configuration: model calls of a turn,
    │   ├── TooManyHandovers        its handovers,
    │   ├── TurnTimeout             its seconds,
    │   ├── HistoryTooLarge         the bytes of its conversation
    │   ├── UnknownAgent            the session's agent is not configured
    │   └── ModelError              the language model failed
    │       ├── ModelUnavailable    it cannot be reached, or is overloaded
    │       ├── ModelRefused        it rejects the request
    │       ├── ModelTimeout        it sent nothing for too long
    │       └── ModelGarbled        its answer is incomplete or malformed
    └── StartupError                the program cannot start: a line for the operator
        ├── SettingsError
        ├── DatabaseInUse           another process owns the SQLite file (W13)
        ├── DatabaseLinked          the SQLite file is, or was last, in use under another path (W13)
        ├── ForeignDatabase         the database holds tables of another program under our names
        ├── SourceUnreadable        the source of an import cannot be read
        ├── TargetNotEmpty          the database to import into holds other sessions
        ├── ExportUnwritable        the file of an export exists, or cannot be written
        ├── FileDamaged             the SQLite file or its WAL is damaged: `findings` has the details
        ├── MigrationError
        └── StatementError          a file in sql/ is wrong

Each has a `code`: stable, lower case, for programs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class AgentRuntimeError(Exception):
    """Base class of all errors of this package."""

    code = "internal_error"


class RequestError(AgentRuntimeError):
    """The request cannot be carried out; nothing was changed."""

    code = "bad_request"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with an input. `path` is its place, such as `$.messages[0].role`."""

    path: str
    message: str


class InvalidInput(RequestError):
    """The input is invalid. `problems` names each place and what is expected there."""

    code = "invalid_input"

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{message} - at `{path}`")
        self.problems = (Problem(path, message),)


class SessionNotFound(RequestError):
    """The session does not exist, or it is deleted."""

    code = "session_not_found"

    def __init__(self, session_id: str, *, deleted: bool = False) -> None:
        state = "is deleted; restore it to use it again" if deleted else "does not exist"
        super().__init__(f"session {session_id!r} {state}")


class ApprovalNotFound(RequestError):
    """The session has no approval with this call id."""

    code = "approval_not_found"

    def __init__(self, session_id: str, call_id: str) -> None:
        super().__init__(f"session {session_id!r} has no approval for call {call_id!r}")


class SessionExists(RequestError):
    """A session with this id exists already; it may be deleted."""

    code = "session_exists"

    def __init__(self, session_id: str, *, deleted: bool = False) -> None:
        note = ", deleted: restore it to use it again" if deleted else ""
        super().__init__(f"session {session_id!r} exists already{note}")


class ApprovalExists(RequestError):
    """The session has an approval with this call id already."""

    code = "approval_exists"

    def __init__(self, session_id: str, call_id: str) -> None:
        super().__init__(f"session {session_id!r} has an approval for call {call_id!r} already")


class ApprovalDecided(RequestError):
    """The approval was decided already, with another decision."""

    code = "approval_decided"

    def __init__(self, call_id: str, status: str) -> None:
        super().__init__(f"call {call_id!r} was decided already: {status}")


class ApprovalExpired(RequestError):
    """The time to decide this approval has passed."""

    code = "approval_expired"

    def __init__(self, call_id: str) -> None:
        super().__init__(f"the time to decide call {call_id!r} has passed")


class VersionMismatch(RequestError):
    """The session is not at the version that the caller expects; it is at `version`."""

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


class TurnNotFound(RequestError):
    """The session has no such turn."""

    code = "turn_not_found"

    def __init__(self, session_id: str, turn_id: str) -> None:
        super().__init__(f"session {session_id!r} has no turn {turn_id!r}")


class MetricsNotFound(RequestError):
    """No turn of the session has ended, so it has no metrics."""

    code = "metrics_not_found"

    def __init__(self, session_id: str) -> None:
        super().__init__(f"no turn of session {session_id!r} has ended; there are no metrics of it")


class SearchOff(RequestError):
    """The search is switched off."""

    code = "search_off"

    def __init__(self) -> None:
        super().__init__("the search is switched off: AGENT_RUNTIME__SEARCH=off")


class TurnRunning(RequestError):
    """A turn is running in the session, which has one at a time."""

    code = "turn_running"

    def __init__(self, session_id: str, turn_id: str) -> None:
        super().__init__(f"turn {turn_id!r} of session {session_id!r} still runs; wait for it, or stop it")


class TurnLost(RequestError):
    """The turn has ended, or another instance has taken it over: the caller may not advance it."""

    code = "turn_lost"

    def __init__(self, turn_id: str) -> None:
        super().__init__(f"turn {turn_id!r} has ended, or another instance has taken it over")


class MetadataNotLoaded(RequestError):
    """The batch had no room to load the metadata that a change is merged into.

    It does not leave the store, which retries: each batch has room for at least one.
    """

    code = "metadata_not_loaded"

    def __init__(self, session_id: str) -> None:
        super().__init__(f"the metadata of session {session_id!r} is too large for this transaction")


class ForkNotCopied(RequestError):
    """A fork cannot be made in this transaction: because of its size, or of other commands (`is_contested`).

    It does not leave the store, which copies the messages in portions and retries.
    """

    code = "fork_not_copied"

    def __init__(self, session_id: str, *, is_contested: bool) -> None:
        super().__init__(f"session {session_id!r} cannot be copied in this transaction")
        self.is_contested = is_contested


class CutNotMeasured(RequestError):
    """A truncation removes so many messages that they must be counted before it is planned.

    It does not leave the store, which counts them and retries.
    """

    code = "cut_not_measured"

    def __init__(self, session_id: str) -> None:
        super().__init__(
            f"session {session_id!r} has too many messages to count them in the same transaction"
        )


class CallNotOpen(RequestError):
    """The tool call is not waiting for a result: it does not exist, has one, or was superseded."""

    code = "call_not_open"

    def __init__(self, session_id: str, call_id: str) -> None:
        super().__init__(f"call {call_id!r} of session {session_id!r} is not waiting for a result")


class ApprovalPending(RequestError):
    """The tool call is waiting for a person's decision; it may have a result only after that."""

    code = "approval_pending"

    def __init__(self, call_id: str) -> None:
        super().__init__(f"call {call_id!r} is waiting for a decision; it may not be run before")


class Unauthorized(RequestError):
    """The credentials are missing, or they are `given` but invalid, expired or revoked."""

    code = "unauthorized"

    def __init__(self, message: str, *, given: bool = True) -> None:
        super().__init__(message)
        self.given = given


class Forbidden(RequestError):
    """The caller is known but not allowed to do this. `scope` is the scope it lacks, or empty."""

    code = "forbidden"

    def __init__(self, message: str, scope: str = "") -> None:
        super().__init__(message)
        self.scope = scope


class TooManyRequests(RequestError):
    """The client has reached its quota. It may retry after `retry_after` seconds."""

    code = "too_many_requests"
    retry_after = 1


class TokenNotFound(RequestError):
    """No token with this id or name can be revoked, or several have the name."""

    code = "token_not_found"


class TokenNotShown(RequestError):
    """A new token could not be printed and was revoked."""

    code = "token_not_shown"


class RefusedByDatabase(RequestError):
    """The database refuses this command's data; the others of its batch are stored (W8)."""

    code = "refused_by_database"


class NotStored(AgentRuntimeError):
    """The write is not stored. It may be retried after `retry_after` seconds."""

    code = "not_stored"
    retry_after = 1


class Overloaded(NotStored):
    """The queue of writes is full (W9)."""

    code = "overloaded"


class DeadlinePassed(NotStored):
    """The write was not stored before its deadline, and will not be (W8)."""

    code = "not_stored"


class Unconfirmed(NotStored):
    """The write was sent to COMMIT, and the database did not answer before the deadline (W7).

    It may be stored or not; a repeat under its idempotency key is safe.
    """

    code = "unconfirmed"


class ShuttingDown(NotStored):
    """The store is closing and accepts no more writes."""

    code = "shutting_down"


class IssuerUnavailable(AgentRuntimeError):
    """The keys of the JWT issuer are unavailable: no JWT can be verified."""

    code = "issuer_unavailable"
    retry_after = 5


class DatabaseError(AgentRuntimeError):
    """The database failed. The driver's error is the cause."""

    code = "database_error"


class DatabaseUnavailable(DatabaseError):
    """The database cannot be reached, the connection broke, or there was no answer in time."""

    code = "database_unavailable"
    retry_after = 1


class CommitUnknown(DatabaseUnavailable):
    """The connection broke during COMMIT: whether the transaction is stored must be looked up (W7)."""


class DatabaseDamaged(DatabaseError):
    """The database file is damaged. A retry does not help."""

    code = "database_damaged"


class DatabaseConflict(DatabaseError):
    """Another transaction was faster; a retry of the transaction may succeed."""

    code = "database_conflict"


class DataRefused(DatabaseError):
    """The database refuses the data of a statement."""

    code = "data_refused"


class TurnFailed(AgentRuntimeError):
    """A turn ended without an answer. Its `error` event contains the message."""

    code = "turn_failed"


class TooManySteps(TurnFailed):
    """The turn reached the limit on model calls."""

    code = "too_many_steps"


class TooManyHandovers(TurnFailed):
    """The turn reached the limit on handovers: the agents may be handing over in a circle."""

    code = "too_many_handovers"


class TurnTimeout(TurnFailed):
    """The turn reached its time limit."""

    code = "turn_timeout"


class HistoryTooLarge(TurnFailed):
    """The conversation exceeds the limit on the bytes that are sent to the model."""

    code = "history_too_large"


class UnknownAgent(TurnFailed):
    """The session's agent is not configured."""

    code = "unknown_agent"


class ModelError(TurnFailed):
    """The language model failed."""

    code = "model_error"


class ModelUnavailable(ModelError):
    """The model cannot be reached, or is overloaded, even after retries."""

    code = "model_unavailable"


class ModelRefused(ModelError):
    """The model's server rejects the request; a retry would not help."""

    code = "model_refused"


class ModelTimeout(ModelError):
    """The model sent nothing for too long."""

    code = "model_timeout"


class ModelGarbled(ModelError):
    """The model's answer is incomplete, or does not have the form of a chat completion."""

    code = "model_garbled"


class StartupError(AgentRuntimeError):
    """The program cannot start. The message is one line for the operator."""

    code = "startup_error"


class SettingsError(StartupError):
    """A setting is unknown or wrong. The message names it and what is expected."""

    code = "settings_error"


class DatabaseInUse(StartupError):
    """Another process owns the SQLite file (W13). The message names it."""

    code = "database_in_use"


class DatabaseLinked(StartupError):
    """The SQLite file is in use, or was last used, under another path (W13), beside which its WAL is."""

    code = "database_linked"


class ForeignDatabase(StartupError):
    """The database holds tables of another program that are named as ours are."""

    code = "foreign_database"


class SourceUnreadable(StartupError):
    """What is to be imported cannot be read, or is nothing that can be imported."""

    code = "source_unreadable"


class TargetNotEmpty(StartupError):
    """The database to import into holds sessions of another origin."""

    code = "target_not_empty"


class ExportUnwritable(StartupError):
    """The file of an export exists already, or cannot be written."""

    code = "export_unwritable"


class FileDamaged(StartupError):
    """The SQLite file or its WAL is damaged. `findings` are lines that describe the damage."""

    code = "file_damaged"

    def __init__(self, path: object, findings: Sequence[str], advice: str) -> None:
        super().__init__(f"DB_URL: {path} is damaged, and was left as it is: {findings[0]}; {advice}")
        self.findings = tuple(findings)


class MigrationError(StartupError):
    """The schema is not the one that the program needs, and cannot be migrated to it."""

    code = "migration_error"


class StatementError(StartupError):
    """A file in sql/ is wrong: a name, a parameter, or a statement that one dialect lacks."""

    code = "statement_error"
