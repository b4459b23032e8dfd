"""Heads and requests in, rows and outcomes out.

Pure: no I/O, no clock, no randomness. Each request takes effect on what the ones before it left, as if
they came one by one (W3), and one that fails leaves everything as it was.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct, structs

from runtime.errors import KeyReused, RequestError
from runtime.store.changes import SessionChange
from runtime.store.write.batch import Batch, PlanInput, StoredReply
from runtime.store.write.commands import Request
from runtime.store.write.kept_replies import decode_reply, encode_reply
from runtime.store.write.outcomes import Outcome
from runtime.store.write.rules import RULES
from runtime.store.write.statements import Rows


class Plan(Struct, frozen=True):
    """The rows to write by statement, each request's outcome or error, and what changed."""

    rows: Rows
    outcomes: list[Outcome | RequestError]
    changes: list[SessionChange]


def plan(known: PlanInput, requests: Sequence[Request]) -> Plan:
    """Decide a batch. Its outcomes stand in the order of the requests."""
    batch = Batch(known)
    outcomes = [_decide(batch, request) for request in requests]
    return Plan(batch.rows(), outcomes, list(batch.changes()))


def _decide(batch: Batch, request: Request) -> Outcome | RequestError:
    try:
        return _replay(batch, request) or _execute(batch, request)
    except RequestError as error:
        # Its traceback holds the outcomes, this one among them, and the whole request.
        return error.with_traceback(None)


def _replay(batch: Batch, request: Request) -> Outcome | None:
    """W12: the reply that the first request under this key had."""
    if request.idempotency is None:
        return None
    key = request.idempotency.key
    stored = batch.replies.get((request.key.owner, key))
    if stored is None:
        return None
    if stored.fingerprint != request.idempotency.fingerprint:
        raise KeyReused(key)
    return structs.replace(decode_reply(stored.reply), replayed=True)


def _execute(batch: Batch, request: Request) -> Outcome:
    outcome = RULES[type(request.command)](batch, request, request.command)
    if request.idempotency is not None:
        reply = StoredReply(request.idempotency.fingerprint, encode_reply(outcome))
        batch.remember(request, request.idempotency, reply)
    return outcome
