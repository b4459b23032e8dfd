"""Approvals: tool calls that wait for a person."""

from __future__ import annotations

from typing import Annotated, Any

from aiohttp import web
from msgspec import Meta, Struct

from runtime.api.authorization import make_room
from runtime.api.request import write_options
from runtime.api.responses import no_content, reply
from runtime.api.routes import ENGINE, Call, Route
from runtime.errors import (
    ApprovalDecided,
    ApprovalExists,
    ApprovalExpired,
    ApprovalNotFound,
    InvalidInput,
)
from runtime.models import (
    MAX_EXPIRES_IN,
    MAX_LIMIT,
    Approval,
    ApprovalList,
    ApprovalStatus,
    Decision,
    Key,
    Limit,
    Text,
)
from runtime.store.validation import JsonValue
from runtime.store.write.outcomes import ApprovalWritten

Seconds = Annotated[float, Meta(gt=0, le=MAX_EXPIRES_IN)]


class NewApproval(Struct, frozen=True, forbid_unknown_fields=True):
    """A tool call to ask a person about. `expires_in` is in seconds."""

    call_id: Key
    tool_name: Annotated[Text, Meta(min_length=1)]
    arguments: JsonValue
    reason: Text | None = None
    expires_in: Seconds | None = None


class Verdict(Struct, frozen=True, forbid_unknown_fields=True):
    """What a person decided. `edit` gives the arguments to go on with."""

    decision: Decision
    modified_arguments: JsonValue | None = None
    feedback: Text | None = None


class PendingQuery(Struct, frozen=True):
    limit: Limit = MAX_LIMIT
    after: Key | None = None


class ApprovalsQuery(PendingQuery, frozen=True):
    status: ApprovalStatus | None = None


class Approvals(Struct, frozen=True):
    """Approvals of a session, oldest first, and the call to read on with: after it."""

    session_id: str
    approvals: list[Approval]
    next_after: str | None


class PendingApprovals(Struct, frozen=True):
    """Approvals that are neither decided nor expired, oldest first, and their number on this page.

    `next_after` is the call to read on after.
    """

    session_id: str
    pending_approvals: list[Approval]
    count: int
    next_after: str | None


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
    return await _written(call, outcome, status=201)


async def list_pending_approvals(call: Call[PendingQuery, None]) -> web.Response:
    """A page of the tool calls that wait: of 4 MiB at most, or one."""
    found = await _list_approvals(call, "pending")
    body = PendingApprovals(found.session_id, found.approvals, len(found.approvals), found.next_after)
    return reply(body, found.version)


async def list_approvals(call: Call[ApprovalsQuery, None]) -> web.Response:
    """A page of the tool calls that wait or waited, of one status or of all: of 4 MiB at most, or one."""
    found = await _list_approvals(call, call.query.status)
    return reply(Approvals(found.session_id, found.approvals, found.next_after), found.version)


async def _list_approvals(call: Call[Any, None], status: ApprovalStatus | None) -> ApprovalList:
    query: PendingQuery = call.query
    try:
        return await call.store.list_approvals(
            call.session_id, status=status, after=query.after, limit=query.limit, owner=call.owner
        )
    except InvalidInput as error:
        raise InvalidInput("?after", error.problems[0].message) from None


async def decide_approval(call: Call[None, Verdict]) -> web.Response:
    """Decide a tool call, once. The same decision again answers the same."""
    _check_arguments(call.body)
    call_id, arguments = call.keys["call_id"], call.body.modified_arguments
    if arguments is not None:
        engine = call.request.app[ENGINE]
        await engine.check_edit(call.session_id, call_id, arguments, "$.modified_arguments", call.owner)
    outcome = await call.store.decide_approval(
        call.session_id,
        call_id,
        call.body.decision,
        modified_arguments=arguments,
        feedback=call.body.feedback,
        **write_options(call.request),
    )
    return await _written(call, outcome)


async def _written(call: Call[Any, Any], outcome: ApprovalWritten, *, status: int = 200) -> web.Response:
    approval = outcome.approval
    parts = (approval.encoded_arguments, approval.encoded_modified_arguments)
    await make_room(call.request, sum([len(memoryview(part)) for part in parts]))
    return reply(approval, outcome.version, status=status, replayed=outcome.replayed)


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
    Route("POST", APPROVALS, create_approval, {201: Approval}, errors=(ApprovalExists,), writes=True),
    Route("GET", APPROVALS, list_approvals, {200: Approvals}, errors=(ApprovalNotFound,)),
    Route(
        "GET",
        "/sessions/{session_id}/pending-approvals",
        list_pending_approvals,
        {200: PendingApprovals},
        errors=(ApprovalNotFound,),
    ),
    Route(
        "POST",
        APPROVALS + "/{call_id}/decision",
        decide_approval,
        {200: Approval},
        errors=(ApprovalNotFound, ApprovalDecided, ApprovalExpired),
        writes=True,
    ),
    Route(
        "DELETE",
        APPROVALS + "/{call_id}",
        delete_approval,
        {204: None},
        errors=(ApprovalNotFound,),
        writes=True,
    ),
)
