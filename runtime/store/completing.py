"""Reads what an outcome leaves out because it is large (R6)."""

from __future__ import annotations

from typing import TypeVar

from msgspec import structs

from runtime.errors import ApprovalNotFound
from runtime.models import is_left_out
from runtime.store.commands import ApprovalWritten, ContextWritten, Outcome, SessionKey, SessionWritten
from runtime.store.reader import Reader

OutcomeT = TypeVar("OutcomeT", bound=Outcome)


async def complete(reader: Reader, key: SessionKey, outcome: OutcomeT) -> OutcomeT:
    """The outcome, whole. What was left out of it comes with all beside it as it is stored by now.

    Raises SessionNotFound or ApprovalNotFound where it is gone by now.
    """
    match outcome:
        case SessionWritten(session=session) if is_left_out(session.encoded_metadata):
            session = await reader.get_session(key)
            return structs.replace(outcome, session=session, version=session.version)
        case ContextWritten(context=context) if is_left_out(context.encoded_metadata):
            context = await reader.get_context(key)
            return structs.replace(outcome, context=context, version=context.version)
        case ApprovalWritten(approval=approval) if is_left_out(approval.encoded_arguments):
            head = await reader.get_head(key)
            found = await reader.find_approval(key, approval.call_id)
            if found is None:
                raise ApprovalNotFound(key.session_id, approval.call_id)
            return structs.replace(outcome, approval=found, version=head.version)
    return outcome
