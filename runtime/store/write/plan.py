"""Plans a batch: heads and requests in, rows and outcomes out.

Planning is pure: no I/O, no clock, no randomness. Requests take effect one after the other (W3); one that
fails changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct, structs

from runtime.errors import KeyReused, RequestError
from runtime.store.changes import CommittedChange
from runtime.store.write.batch import Batch, PlanInput, StoredReply
from runtime.store.write.commands import Request
from runtime.store.write.kept_replies import decode_reply, encode_reply
from runtime.store.write.outcomes import Outcome
from runtime.store.write.rules import RULES
from runtime.store.write.statements import Rows


class Plan(Struct, frozen=True):
    """The rows to write by statement, the outcome or error of each request, and the changes."""

    rows: Rows
    outcomes: list[Outcome | RequestError]
    changes: list[CommittedChange]


def plan(stored: PlanInput, requests: Sequence[Request]) -> Plan:
    """Plan a batch. The outcomes are in the order of the requests."""
    batch = Batch(stored)
    outcomes = [_plan_request(batch, request) for request in requests]
    return Plan(batch.rows(), outcomes, list(batch.changes()))


def _plan_request(batch: Batch, request: Request) -> Outcome | RequestError:
    try:
        if (replayed := _replay(batch, request)) is not None:
            return replayed
        outcome = RULES[type(request.command)](batch, request, request.command)
        if request.idempotency is not None:
            reply = StoredReply(request.idempotency.fingerprint, encode_reply(outcome))
            batch.remember(request, request.idempotency, reply)
        return outcome
    except RequestError as error:
        # The traceback would keep all outcomes and the whole request in memory.
        return error.with_traceback(None)


def _replay(batch: Batch, request: Request) -> Outcome | None:
    """The reply to the first request under the same idempotency key, if there is one (W12)."""
    if request.idempotency is None:
        return None
    key = request.idempotency.key
    stored = batch.replies.get((request.key.owner, key))
    if stored is None:
        return None
    if stored.fingerprint != request.idempotency.fingerprint:
        raise KeyReused(key)
    return structs.replace(decode_reply(stored.reply), replayed=True)
