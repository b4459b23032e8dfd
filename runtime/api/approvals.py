"""Approvals: tool calls that wait for a person."""

from __future__ import annotations

from typing import Annotated, Any

from aiohttp import web
from msgspec import Meta, Struct

from runtime.api.request import write_options
from runtime.api.respond import no_content, reply
from runtime.api.routes import Call, Route
from runtime.errors import (
    ApprovalDecided,
    ApprovalExists,
    ApprovalExpired,
    ApprovalNotFound,
    InvalidInput,
    SessionNotFound,
)
from runtime.models import MAX_EXPIRES_IN, Approval, ApprovalStatus, Decision, Key

Seconds = Annotated[float, Meta(gt=0, le=MAX_EXPIRES_IN)]


class NewApproval(Struct, frozen=True, forbid_unknown_fields=True):
    """A tool call to ask a person about. `expires_in` is in seconds."""

    call_id: Key
    tool_name: Annotated[str, Meta(min_length=1)]
    arguments: Any
    reason: str | None = None
    expires_in: Seconds | None = None


class Verdict(Struct, frozen=True, forbid_unknown_fields=True):
    """What a person decided. `edit` gives the arguments to go on with."""

    decision: Decision
    modified_arguments: Any = None
    feedback: str | None = None


class ApprovalsQuery(Struct, frozen=True):
    status: ApprovalStatus | None = None


class Approvals(Struct, frozen=True):
    """Approvals of a session, oldest first."""

    session_id: str
    approvals: list[Approval]


class PendingApprovals(Struct, frozen=True):
    """The approvals that nobody has decided and whose time has not passed, oldest first."""

    session_id: str
    pending_approvals: list[Approval]
    count: int


async def create_approval(call: Call[None, NewApproval]) -> web.Response:
    """Let a tool call wait for a person."""
    body = call.body
    outcome = await call.store.create_approval(
        call.session_id,
        body.call_id,
        body.tool_name,
        body.arguments,
        reason=body.reason,
        expires_in=body.expires_in,
        **write_options(call.request),
    )
    return reply(outcome.approval, outcome.version, status=201, replayed=outcome.replayed)


async def list_pending_approvals(call: Call[None, None]) -> web.Response:
    """The tool calls that wait."""
    found = await call.store.list_approvals(call.session_id, status="pending", owner=call.owner)
    body = PendingApprovals(found.session_id, found.approvals, len(found.approvals))
    return reply(body, found.version)


async def list_approvals(call: Call[ApprovalsQuery, None]) -> web.Response:
    """The tool calls that wait or waited, of one status or of all."""
    found = await call.store.list_approvals(call.session_id, status=call.query.status, owner=call.owner)
    return reply(Approvals(found.session_id, found.approvals), found.version)


async def decide_approval(call: Call[None, Verdict]) -> web.Response:
    """Decide a tool call, once. The same decision again answers the same."""
    _check_arguments(call.body)
    outcome = await call.store.decide_approval(
        call.session_id,
        call.keys["call_id"],
        call.body.decision,
        modified_arguments=call.body.modified_arguments,
        feedback=call.body.feedback,
        **write_options(call.request),
    )
    return reply(outcome.approval, outcome.version, replayed=outcome.replayed)


def _check_arguments(verdict: Verdict) -> None:
    if verdict.decision == "edit" and verdict.modified_arguments is None:
        raise InvalidInput("$.modified_arguments", "must be given with the decision `edit`")
    if verdict.decision != "edit" and verdict.modified_arguments is not None:
        raise InvalidInput("$.modified_arguments", "can be given only with the decision `edit`")


async def delete_approval(call: Call[None, None]) -> web.Response:
    """Take an approval away."""
    outcome = await call.store.delete_approval(
        call.session_id, call.keys["call_id"], **write_options(call.request)
    )
    return no_content(outcome.version, replayed=outcome.replayed)


APPROVALS = "/sessions/{session_id}/approvals"

ROUTES = (
    Route(
        method="POST",
        path=APPROVALS,
        handler=create_approval,
        replies={201: Approval},
        errors=(SessionNotFound, ApprovalExists),
        writes=True,
    ),
    Route(
        method="GET",
        path=APPROVALS,
        handler=list_approvals,
        replies={200: Approvals},
        errors=(SessionNotFound,),
    ),
    Route(
        method="GET",
        path="/sessions/{session_id}/pending-approvals",
        handler=list_pending_approvals,
        replies={200: PendingApprovals},
        errors=(SessionNotFound,),
    ),
    Route(
        method="POST",
        path=APPROVALS + "/{call_id}/decision",
        handler=decide_approval,
        replies={200: Approval},
        errors=(SessionNotFound, ApprovalNotFound, ApprovalDecided, ApprovalExpired),
        writes=True,
    ),
    Route(
        method="DELETE",
        path=APPROVALS + "/{call_id}",
        handler=delete_approval,
        replies={204: None},
        errors=(SessionNotFound, ApprovalNotFound),
        writes=True,
    ),
)
