"""Rules about approvals; see `__init__.py` for what all rules have in common."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from msgspec import structs

from runtime.errors import ApprovalDecided, ApprovalExists, ApprovalExpired, ApprovalNotFound
from runtime.store.records import ApprovalRow, approval_from
from runtime.store.write import commands
from runtime.store.write.batch import Batch
from runtime.store.write.commands import Request
from runtime.store.write.outcomes import ApprovalDeleted, ApprovalWritten, Outcome
from runtime.store.write.planned_session import PlannedSession
from runtime.store.write.rules.rule import Rules
from runtime.store.write.turn_commands import CallVerdict

STATUS = {"approve": "approved", "edit": "edited", "reject": "rejected"}


def _create_approval(batch: Batch, request: Request, command: commands.CreateApproval) -> Outcome:
    session = batch.get(request)
    check_unused(batch, session, command.call_id)
    return _put_approval(session, request, new_approval(command, request.at))


def check_unused(batch: Batch, session: PlannedSession, call_id: str) -> None:
    """Raise ApprovalExists if the session has an approval for the call."""
    if batch.approval(session, call_id) is not None:
        raise ApprovalExists(session.key.session_id, call_id)


def new_approval(command: commands.CreateApproval, at: datetime) -> ApprovalRow:
    """A pending approval."""
    seconds = command.expires_in
    return ApprovalRow(
        call_id=command.call_id,
        tool_name=command.tool_name,
        arguments=command.arguments,
        reason=command.reason,
        status="pending",
        created_at=at,
        expires_at=None if seconds is None else at + timedelta(seconds=seconds),
        decided_at=None,
        modified_arguments=None,
        feedback=None,
    )


def _put_approval(session: PlannedSession, request: Request, approval: ApprovalRow) -> ApprovalWritten:
    if session.approvals.get(approval.call_id) != approval:
        session.approvals[approval.call_id] = approval
        session.raise_version(request.at, "approvals")
    return ApprovalWritten(
        session_id=request.key.session_id,
        version=session.version,
        approval=approval_from(request.key.session_id, approval),
    )


def is_expired(approval: ApprovalRow, at: datetime) -> bool:
    """Whether the time for a decision has passed."""
    return approval.expires_at is not None and approval.expires_at <= at


def get_approval(batch: Batch, session: PlannedSession, call_id: str) -> ApprovalRow:
    """The approval for a call. Raises ApprovalNotFound."""
    approval = batch.approval(session, call_id)
    if approval is None:
        raise ApprovalNotFound(session.key.session_id, call_id)
    return approval


def _decide_approval(batch: Batch, request: Request, command: commands.DecideApproval) -> Outcome:
    session = batch.get(request)
    approval = get_approval(batch, session, command.call_id)
    return _put_approval(session, request, decide(approval, command, request.at))


def decide(
    approval: ApprovalRow, verdict: commands.DecideApproval | CallVerdict, at: datetime
) -> ApprovalRow:
    """The approval after a decision. A repeat of the same decision changes nothing.

    Raises ApprovalDecided, ApprovalExpired.
    """
    status = STATUS[verdict.decision]
    if approval.status != "pending":
        if (status, verdict.modified_arguments) != (approval.status, approval.modified_arguments):
            raise ApprovalDecided(approval.call_id, approval.status)
        return approval
    if is_expired(approval, at):
        raise ApprovalExpired(approval.call_id)
    decided: dict[str, Any] = {
        "status": status,
        "decided_at": at,
        "modified_arguments": verdict.modified_arguments,
        "feedback": verdict.feedback,
    }
    return structs.replace(approval, **decided)


def _delete_approval(batch: Batch, request: Request, command: commands.DeleteApproval) -> Outcome:
    session = batch.get(request)
    get_approval(batch, session, command.call_id)
    del session.approvals[command.call_id]
    if command.call_id in session.stored_approvals:
        session.deleted_approvals.add(command.call_id)
    session.raise_version(request.at, "approvals")
    return ApprovalDeleted(session_id=request.key.session_id, version=session.version)


RULES: Rules = {
    commands.CreateApproval: _create_approval,
    commands.DecideApproval: _decide_approval,
    commands.DeleteApproval: _delete_approval,
}
