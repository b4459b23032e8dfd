"""Errors as problem details (RFC 9457)."""

from __future__ import annotations

import logging
from http import HTTPStatus

import msgspec
from aiohttp import web
from msgspec import UNSET, Struct, UnsetType

from runtime import errors
from runtime.api.responses import Reply

logger = logging.getLogger("agent_runtime.http")

STATUS: dict[type[errors.AgentRuntimeError], int] = {
    errors.AgentRuntimeError: 500,
    errors.RequestError: 400,
    errors.InvalidInput: 422,
    errors.SessionNotFound: 404,
    errors.ApprovalNotFound: 404,
    errors.SessionExists: 409,
    errors.ApprovalExists: 409,
    errors.ApprovalDecided: 409,
    errors.ApprovalExpired: 410,
    errors.TurnNotFound: 404,
    errors.MetricsNotFound: 404,
    errors.SearchOff: 404,
    errors.TurnRunning: 409,
    errors.TurnLost: 409,
    errors.CallNotOpen: 409,
    errors.ApprovalPending: 409,
    errors.VersionMismatch: 412,
    errors.KeyReused: 422,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.TooManyRequests: 429,
    errors.RefusedByDatabase: 422,
    errors.NotStored: 503,
    errors.IssuerUnavailable: 503,
    errors.DatabaseUnavailable: 503,
    errors.DatabaseDamaged: 500,
}

# Errors with a time, in seconds, after which to try again.
PASSING = (errors.NotStored, errors.DatabaseUnavailable, errors.IssuerUnavailable, errors.TooManyRequests)

# The codes of what HTTP itself finds wrong, before the store is asked.
HTTP_CODES = {
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
}

UNAVAILABLE = "the database cannot be reached for now"
DAMAGED = "the database is damaged; trying again does not help, its operator has to see to it"
UNEXPECTED = "the server failed on this request; its log says more under the request id"


class FieldProblem(Struct, frozen=True):
    """One thing that is wrong: a place such as `$.messages[0].role`, `?limit` or `If-Match`, and what."""

    path: str
    message: str


class ProblemDetails(Struct, frozen=True):
    """Why a request failed. `code` is stable, for programs; `errors` names what did not fit."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[FieldProblem] | UnsetType = UNSET


class HttpError(Exception):
    """Something is wrong with the request as HTTP; `close` where its connection is of no more use."""

    def __init__(self, status: int, code: str, detail: str, *, close: bool = False) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.close = close


def status_of(kind: type[BaseException]) -> int:
    """The status that an error of ours, or any other exception (500), is answered with."""
    return next((STATUS[parent] for parent in kind.__mro__ if parent in STATUS), 500)


def problem(error: Exception, request_id: str) -> web.Response:
    """The reply to an error. An unexpected one is logged, and its reply shows no details."""
    if isinstance(error, web.HTTPException):
        return _from_aiohttp(error, request_id)
    if isinstance(error, HttpError):
        return _from_http(error, request_id)
    status = status_of(type(error))
    if status == 500 and not isinstance(error, errors.DatabaseDamaged):
        logger.error("request %s failed", request_id, exc_info=error)
        return _reply(500, "internal_error", UNEXPECTED, request_id)
    assert isinstance(error, errors.AgentRuntimeError)
    return _from_ours(error, status, request_id)


def _from_ours(error: errors.AgentRuntimeError, status: int, request_id: str) -> web.Response:
    fields: list[FieldProblem] | UnsetType = UNSET
    detail = str(error)
    if isinstance(error, errors.InvalidInput):
        fields = [FieldProblem(place.path, place.message) for place in error.problems]
    if isinstance(error, errors.DatabaseUnavailable):
        logger.warning("request %s: %s", request_id, error)
        detail = UNAVAILABLE
    if isinstance(error, errors.DatabaseDamaged):
        detail = DAMAGED
    reply = _reply(status, error.code, detail, request_id, fields)
    if isinstance(error, errors.VersionMismatch):
        reply.headers["ETag"] = f'"{error.version}"'
    if isinstance(error, PASSING):
        reply.headers["Retry-After"] = str(error.retry_after)
    if status in (401, 403):
        reply.headers["WWW-Authenticate"] = _challenge(error)
    return reply


def _challenge(error: errors.AgentRuntimeError) -> str:
    """How to authenticate (RFC 6750, 3)."""
    if isinstance(error, errors.Forbidden) and error.scope:
        return f'Bearer realm="agent-runtime", error="insufficient_scope", scope="{error.scope}"'
    if isinstance(error, errors.Unauthorized) and error.given:
        return 'Bearer realm="agent-runtime", error="invalid_token"'
    return 'Bearer realm="agent-runtime"'


def _from_http(error: HttpError, request_id: str) -> web.Response:
    reply = _reply(error.status, error.code, str(error), request_id)
    if error.close:
        reply.force_close()
    return reply


def _from_aiohttp(error: web.HTTPException, request_id: str) -> web.Response:
    code = HTTP_CODES.get(error.status, f"http_{error.status}")
    reply = _reply(error.status, code, _detail(error), request_id)
    if "Allow" in error.headers:
        reply.headers["Allow"] = error.headers["Allow"]
    return reply


def _detail(error: web.HTTPException) -> str:
    if isinstance(error, web.HTTPNotFound):
        return "there is nothing at this path; /openapi.json lists all that there is"
    if isinstance(error, web.HTTPMethodNotAllowed):
        return f"{error.method} is not possible here; possible: {', '.join(sorted(error.allowed_methods))}"
    return error.reason


def _reply(
    status: int,
    code: str,
    detail: str,
    request_id: str,
    fields: list[FieldProblem] | UnsetType = UNSET,
) -> web.Response:
    title = HTTPStatus(status).phrase
    body = ProblemDetails("about:blank", title, status, detail, code, request_id, fields)
    headers = {"Content-Type": "application/problem+json"}
    return Reply(body=msgspec.json.encode(body), status=status, headers=headers)
