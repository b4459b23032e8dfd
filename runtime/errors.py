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
    │   ├── TurnNotFound
    │   ├── TurnRunning             a session has one turn at a time
    │   ├── TurnLost                the turn has ended, or has gone on in other hands
    │   ├── CutNotMeasured          inside the store alone: it measures a long cut, and asks again
    │   ├── CallNotOpen             the tool call waits for no result
    │   ├── ApprovalPending         the tool call waits for a person, not for a result
    │   ├── Unauthorized            nothing says who asks, or what says so is wrong
    │   ├── Forbidden               who asks may not do this
    │   ├── TooManyRequests         the client has its full share in hand: `retry_after`, in seconds
    │   ├── TokenNotFound
    │   ├── TokenNotShown           a new token could not be printed, and lets nobody in
    │   └── RefusedByDatabase       the database would not take this one's data (W8)
    ├── NotStored                   try again later: `retry_after` says when, in seconds
    │   ├── Overloaded              the queue is full (W9)
    │   ├── DeadlinePassed          not stored before the deadline (W8)
    │   ├── Unconfirmed             sent to be committed, and no answer before the deadline (W7)
    │   └── ShuttingDown
    ├── IssuerUnavailable           the keys of the JWT issuer cannot be had: `retry_after`, in seconds
    ├── DatabaseError               raised by `db`, with the driver's error as its cause
    │   ├── DatabaseUnavailable     no connection, or it broke, or no answer in time
    │   │   └── CommitUnknown       it broke during COMMIT: in or not in is not known (W7)
    │   ├── DatabaseDamaged         the database file is damaged: trying again does not help
    │   ├── DatabaseConflict        another transaction came first: the same again may succeed
    │   └── DataRefused             the database refuses the data
    ├── TurnFailed                  a turn came to its end before its answer
    │   ├── TooManySteps            a limit of the configuration: as many model calls as a turn may make,
    │   ├── TooManyHandovers        as many handovers,
    │   ├── TurnTimeout             as many seconds
    │   ├── HistoryTooLarge         as many bytes of the conversation for the model
    │   ├── UnknownAgent            the session is held by an agent that the configuration does not know
    │   └── ModelError              the language model failed
    │       ├── ModelUnavailable    it cannot be reached, or is too busy
    │       ├── ModelRefused        it does not take the request
    │       ├── ModelTimeout        it fell silent
    │       └── ModelGarbled        it broke off, or what it said cannot be understood
    └── StartupError                the program cannot start: one line for the operator
        ├── SettingsError
        ├── DatabaseInUse           another process owns the SQLite file (W13)
        ├── DatabaseLinked          the SQLite file is known, or in use, under another path (W13)
        ├── ForeignDatabase         the database holds tables of another program under our names
        ├── SourceUnreadable        what is to be imported cannot be read
        ├── TargetNotEmpty          the database to import into holds other sessions
        ├── FileDamaged             the SQLite file, or its WAL, is not whole; `findings` says more
        ├── MigrationError
        └── StatementError          a file in sql/ is wrong

Each has a `code`: stable, lower case, for programs.
"""

from __future__ import annotations

from collections.abc import Sequence
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


class TurnNotFound(RequestError):
    """The session has no such turn."""

    code = "turn_not_found"

    def __init__(self, session_id: str, turn_id: str) -> None:
        super().__init__(f"session {session_id!r} has no turn {turn_id!r}")


class TurnRunning(RequestError):
    """A turn runs in the session, and it has one at a time."""

    code = "turn_running"

    def __init__(self, session_id: str, turn_id: str) -> None:
        super().__init__(f"turn {turn_id!r} of session {session_id!r} still runs; wait for it, or stop it")


class TurnLost(RequestError):
    """The turn has ended, or has gone on in other hands: it is not the caller's to move."""

    code = "turn_lost"

    def __init__(self, turn_id: str) -> None:
        super().__init__(f"turn {turn_id!r} has ended, or has gone on in other hands")


class CutNotMeasured(RequestError):
    """A cut takes away so many messages that they have to be counted before it is asked for.

    No caller of the store sees this: the store counts them, and asks again.
    """

    code = "cut_not_measured"

    def __init__(self, session_id: str) -> None:
        super().__init__(f"session {session_id!r} has too many messages to count them while they are cut")


class CallNotOpen(RequestError):
    """The tool call waits for no result: it was never made, is answered, or the conversation went on."""

    code = "call_not_open"

    def __init__(self, session_id: str, call_id: str) -> None:
        super().__init__(f"call {call_id!r} of session {session_id!r} waits for no result")


class ApprovalPending(RequestError):
    """The tool call waits for a person's decision before it may have a result."""

    code = "approval_pending"

    def __init__(self, call_id: str) -> None:
        super().__init__(f"call {call_id!r} waits for a decision; it may not be run before")


class Unauthorized(RequestError):
    """Nothing says who asks, or what says so (it was `given`) is wrong, has expired or was revoked."""

    code = "unauthorized"

    def __init__(self, message: str, *, given: bool = True) -> None:
        super().__init__(message)
        self.given = given


class Forbidden(RequestError):
    """Who asks is known, and may not do this: the scope that it needs is `scope`, where there is one."""

    code = "forbidden"

    def __init__(self, message: str, scope: str = "") -> None:
        super().__init__(message)
        self.scope = scope


class TooManyRequests(RequestError):
    """The client has as much in hand as one client may; `retry_after` says, in seconds, when to try again."""

    code = "too_many_requests"
    retry_after = 1


class TokenNotFound(RequestError):
    """No token of this id or name can be revoked, or the name is that of several."""

    code = "token_not_found"


class TokenNotShown(RequestError):
    """A new token could not be printed: nobody has it, and it was revoked."""

    code = "token_not_shown"


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


class IssuerUnavailable(AgentRuntimeError):
    """The keys of the JWT issuer cannot be had for now: a JWT can be neither taken nor refused."""

    code = "issuer_unavailable"
    retry_after = 5


class DatabaseError(AgentRuntimeError):
    """The database said no, or nothing. The driver's error is the cause."""

    code = "database_error"


class DatabaseUnavailable(DatabaseError):
    """No connection to the database, or it broke, or there was no answer in time."""

    code = "database_unavailable"
    retry_after = 1


class CommitUnknown(DatabaseUnavailable):
    """The connection broke during COMMIT: whether the transaction is in has to be looked up (W7)."""


class DatabaseDamaged(DatabaseError):
    """The database file is damaged. Trying again does not help."""

    code = "database_damaged"


class DatabaseConflict(DatabaseError):
    """Another transaction came first; the same transaction, begun again, may succeed."""

    code = "database_conflict"


class DataRefused(DatabaseError):
    """The database refuses the data of a statement."""

    code = "data_refused"


class TurnFailed(AgentRuntimeError):
    """A turn ended before its answer. The message gives the reason to the readers of its events."""

    code = "turn_failed"


class TooManySteps(TurnFailed):
    """The turn asked the model as often as the limits allow."""

    code = "too_many_steps"


class TooManyHandovers(TurnFailed):
    """The turn was handed over as often as the limits allow: the agents send it round in a circle."""

    code = "too_many_handovers"


class TurnTimeout(TurnFailed):
    """The turn took as many seconds as the limits allow."""

    code = "turn_timeout"


class HistoryTooLarge(TurnFailed):
    """What the model has to be told has more bytes than the limits allow."""

    code = "history_too_large"


class UnknownAgent(TurnFailed):
    """The session is held by an agent that the configuration does not know."""

    code = "unknown_agent"


class ModelError(TurnFailed):
    """The language model failed."""

    code = "model_error"


class ModelUnavailable(ModelError):
    """The model cannot be reached, or is too busy, also after trying again."""

    code = "model_unavailable"


class ModelRefused(ModelError):
    """The model's server does not take the request, and would not take it again."""

    code = "model_refused"


class ModelTimeout(ModelError):
    """The model said nothing for too long."""

    code = "model_timeout"


class ModelGarbled(ModelError):
    """The model broke off, or what it sent is not what chat-completion servers send."""

    code = "model_garbled"


class StartupError(AgentRuntimeError):
    """The program cannot start. The message is one line for the operator."""

    code = "startup_error"


class SettingsError(StartupError):
    """A setting is unknown or wrong. The message names it and what would be right."""

    code = "settings_error"


class DatabaseInUse(StartupError):
    """Another process owns the SQLite file (W13). The message names it."""

    code = "database_in_use"


class DatabaseLinked(StartupError):
    """The SQLite file is in use, or was last open, under another path (W13): its WAL lies beside that one."""

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


class FileDamaged(StartupError):
    """The SQLite file, or its WAL, is not whole; `findings` are lines that say what is wrong with it."""

    code = "file_damaged"

    def __init__(self, path: object, findings: Sequence[str], advice: str) -> None:
        super().__init__(f"DB_URL: {path} is damaged, and was left as it is: {findings[0]}; {advice}")
        self.findings = tuple(findings)


class MigrationError(StartupError):
    """The schema is not what the program needs, and could not be made so."""

    code = "migration_error"


class StatementError(StartupError):
    """A file in sql/ is wrong: a name, a parameter, or a statement that one dialect lacks."""

    code = "statement_error"
