"""Reads what an outcome leaves out because it is large (R6)."""

from __future__ import annotations

from typing import TypeVar

from msgspec import structs

from runtime.errors import ApprovalNotFound
from runtime.models import is_left_out
from runtime.store.commands import ApprovalWritten, ContextWritten, Outcome, SessionKey, SessionWritten
from runtime.store.reader import Reader

OutcomeT = TypeVar("OutcomeT", bound=Outcome)


def is_large(outcome: Outcome) -> bool:
    """Whether something is left out of an outcome."""
    match outcome:
        case SessionWritten(session=session):
            return is_left_out(session.encoded_metadata)
        case ContextWritten(context=context):
            return is_left_out(context.encoded_metadata)
        case ApprovalWritten(approval=approval):
            return is_left_out(approval.encoded_arguments)
    return False


async def complete(reader: Reader, key: SessionKey, outcome: OutcomeT) -> OutcomeT:
    """A large outcome, whole. What was left out of it comes with all beside it as it is stored by now.

    Raises SessionNotFound or ApprovalNotFound where it is gone by now.
    """
    match outcome:
        case SessionWritten():
            session = await reader.get_session(key)
            return structs.replace(outcome, session=session, version=session.version)
        case ContextWritten():
            context = await reader.get_context(key)
            return structs.replace(outcome, context=context, version=context.version)
        case ApprovalWritten(approval=approval):
            head = await reader.get_head(key)
            found = await reader.find_approval(key, approval.call_id)
            if found is None:
                raise ApprovalNotFound(key.session_id, approval.call_id)
            return structs.replace(outcome, approval=found, version=head.version)
    return outcome
