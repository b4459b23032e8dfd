"""Metrics of conversations and the audit log, in the form of the earlier service.

Everything is read from what is stored: of the caller's 1,000 sessions of latest activity, and in them of the
last 200 messages.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Literal

from aiohttp import web
from msgspec import UNSET, Struct, UnsetType, structs

from runtime.agents.registry import SWITCH_AGENT
from runtime.api.responses import reply
from runtime.api.routes import DEFAULT_MODEL, ENGINE, Call, Route
from runtime.errors import MetricsNotFound, SessionNotFound
from runtime.models import Key, Limit
from runtime.store.read.activity import Activity, EndedTurn, sessions_of

EventType = Literal[
    "agent_switched",
    "hitl_decision_made",
    "agent_error",
    "tool_execution_failed",
    "tool_approval_required",
]
DECISIONS = {"approved": "APPROVE", "edited": "EDIT", "rejected": "REJECT"}
# The most requests that the metrics of a session list.
REQUESTS = 1000


class AuditQuery(Struct, frozen=True):
    limit: Limit = 100
    session_id: Key | None = None
    event_type: EventType | None = None


class ConversationMetrics(Struct, frozen=True):
    """Counts of handovers, turns by agent, tools, decisions and failures; averages and rates of them."""

    metrics: dict[str, Any]
    computed: dict[str, float]
    timestamp: datetime


class SessionsWithMetrics(Struct, frozen=True):
    """The sessions in which a turn has ended."""

    sessions: list[str]
    count: int


class RequestMetrics(Struct, frozen=True):
    """A turn that has ended."""

    timestamp: datetime
    model: str
    duration_ms: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    has_tool_calls: bool
    success: bool
    error: str | None


class SessionMetrics(Struct, frozen=True):
    """The turns of a session that have ended, oldest first: the latest 1,000."""

    session_id: str
    total_requests: int
    successful_requests: int
    failed_requests: int
    total_duration_ms: int
    average_duration_ms: float
    total_prompt_tokens: int
    total_completion_tokens: int
    total_tokens: int
    average_tokens_per_request: float
    requests_with_tools: int
    requests: list[RequestMetrics]


class AuditEntry(Struct, frozen=True, omit_defaults=True):
    """Something that was done or decided. Other members depend on the type."""

    timestamp: datetime
    event_type: EventType
    event_id: str
    session_id: str
    correlation_id: str
    from_agent: str | UnsetType = UNSET
    to_agent: str | UnsetType = UNSET
    agent: str | UnsetType = UNSET
    call_id: str | UnsetType = UNSET
    tool_name: str | UnsetType = UNSET
    decision: str | UnsetType = UNSET
    error: str | UnsetType | None = UNSET


class AuditLog(Struct, frozen=True):
    """The latest entries, oldest first."""

    audit_log: list[AuditEntry]
    count: int
    filters: dict[str, Any]


class EventStats(Struct, frozen=True):
    """How many entries the audit log could show, and when the latest happened."""

    total_published: int
    successful_handlers: int
    failed_handlers: int
    last_event_time: datetime | None
    success_rate: float


async def get_metrics(call: Call[None, None]) -> web.Response:
    """Counts over the caller's sessions of latest activity."""
    activity = await call.store.activity.of_owner(call.owner)
    agents, tools = _agents(activity), _tools(activity)
    metrics = {
        "agent_switches": Counter(f"{each.from_agent}_to_{each.to_agent}" for each in activity.switches),
        "agent_processing": agents,
        "tool_executions": tools,
        "hitl_decisions": _decisions(activity),
        "errors": _errors(activity),
    }
    computed = {
        f"{name}_avg_duration_ms": round(each["total_duration_ms"] / each["count"], 2)
        for name, each in agents.items()
    } | {
        f"{name}_success_rate": round(each["completed"] / each["requested"], 4)
        for name, each in tools.items()
        if each["requested"]
    }
    return reply(ConversationMetrics(metrics, computed, activity.read_at))


def _agents(activity: Activity) -> dict[str, dict[str, float]]:
    found: defaultdict[str, dict[str, float]] = defaultdict(
        lambda: {"count": 0, "total_duration_ms": 0.0, "success_count": 0, "failure_count": 0}
    )
    for turn in activity.turns:
        entry = found[turn.agent]
        entry["count"] += 1
        entry["total_duration_ms"] += _milliseconds(turn)
        entry["success_count" if turn.status == "completed" else "failure_count"] += 1
    return dict(found)


def _tools(activity: Activity) -> dict[str, dict[str, int]]:
    found: defaultdict[str, dict[str, int]] = defaultdict(
        lambda: {"requested": 0, "completed": 0, "failed": 0, "requires_approval": 0}
    )
    for result in activity.tool_messages:
        # A handover is counted as such.
        if result.is_result and result.tool_name != SWITCH_AGENT:
            found[result.tool_name]["requested"] += 1
            found[result.tool_name]["failed" if result.failed else "completed"] += 1
    for approval in activity.approvals:
        found[approval.tool_name]["requires_approval"] += 1
        if approval.decided_at is None:
            found[approval.tool_name]["requested"] += 1
    return dict(found)


def _decisions(activity: Activity) -> dict[str, dict[str, int]]:
    found: defaultdict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(DECISIONS.values(), 0))
    for approval in activity.approvals:
        if approval.status in DECISIONS:
            found[approval.tool_name][DECISIONS[approval.status]] += 1
    return dict(found)


def _errors(activity: Activity) -> dict[str, Counter[str]]:
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for turn in activity.turns:
        if turn.status in ("failed", "interrupted"):
            found[turn.agent][turn.status] += 1
    return dict(found)


async def list_sessions_with_metrics(call: Call[None, None]) -> web.Response:
    """The sessions in which a turn has ended, latest first."""
    activity = await call.store.activity.of_owner(call.owner)
    sessions = sessions_of(activity.turns)
    return reply(SessionsWithMetrics(sessions, len(sessions)))


async def get_session_metrics(call: Call[None, None]) -> web.Response:
    """The turns of a session that have ended. 404 where none has."""
    activity = await call.store.activity.of_session(call.session_id, owner=call.owner)
    if not activity.turns:
        raise MetricsNotFound(call.session_id)
    calls = [message.at for message in activity.tool_messages if not message.is_result]
    requests = [_request(turn, _model(call, turn.agent), calls) for turn in activity.turns[:REQUESTS]][::-1]
    total = len(requests)
    tokens = sum(each.total_tokens for each in requests)
    duration = sum(each.duration_ms for each in requests)
    successes = sum(each.success for each in requests)
    return reply(
        SessionMetrics(
            session_id=call.session_id,
            total_requests=total,
            successful_requests=successes,
            failed_requests=total - successes,
            total_duration_ms=duration,
            average_duration_ms=round(duration / total, 2),
            total_prompt_tokens=sum(each.prompt_tokens for each in requests),
            total_completion_tokens=sum(each.completion_tokens for each in requests),
            total_tokens=tokens,
            average_tokens_per_request=round(tokens / total, 2),
            requests_with_tools=sum(each.has_tool_calls for each in requests),
            requests=requests,
        )
    )


def _model(call: Call[None, None], agent: str) -> str:
    known = call.request.app[ENGINE].registry.agents.get(agent)
    return (known.model if known is not None else "") or call.request.app[DEFAULT_MODEL]


def _request(turn: EndedTurn, model: str, calls: list[datetime]) -> RequestMetrics:
    return RequestMetrics(
        timestamp=turn.started_at,
        model=model,
        duration_ms=round(_milliseconds(turn)),
        prompt_tokens=turn.input_tokens,
        completion_tokens=turn.output_tokens,
        total_tokens=turn.input_tokens + turn.output_tokens,
        has_tool_calls=any(turn.started_at <= at <= turn.ended_at for at in calls),
        success=turn.status == "completed",
        error=turn.error,
    )


def _milliseconds(turn: EndedTurn) -> float:
    return (turn.ended_at - turn.started_at) / timedelta(milliseconds=1)


async def list_audit_log(call: Call[AuditQuery, None]) -> web.Response:
    """The latest entries of the audit log, oldest first."""
    query = call.query
    if query.session_id is None:
        activity = await call.store.activity.of_owner(call.owner)
    else:
        activity = await call.store.activity.of_session(query.session_id, owner=call.owner)
    entries = [each for each in _entries(activity) if query.event_type in (None, each.event_type)]
    entries.sort(key=lambda each: (each.timestamp, each.event_id))
    latest = entries[-query.limit :]
    return reply(AuditLog(latest, len(latest), structs.asdict(query)))


async def get_stats(call: Call[None, None]) -> web.Response:
    """How many entries the audit log could show."""
    entries = list(_entries(await call.store.activity.of_owner(call.owner)))
    latest = max((each.timestamp for each in entries), default=None)
    return reply(EventStats(len(entries), len(entries), 0, latest, 1.0))


def _entries(activity: Activity) -> Iterator[AuditEntry]:
    for switch in activity.switches:
        id = f"agent_switched:{switch.session_id}:{switch.n}"
        agents = {"from_agent": switch.from_agent, "to_agent": switch.to_agent}
        yield AuditEntry(switch.at, "agent_switched", id, switch.session_id, switch.session_id, **agents)
    for turn in activity.turns:
        if turn.status in ("failed", "interrupted"):
            id = f"agent_error:{turn.session_id}:{turn.n}"
            yield AuditEntry(
                turn.ended_at,
                "agent_error",
                id,
                turn.session_id,
                turn.turn_id,
                agent=turn.agent,
                error=turn.error,
            )
    for result in activity.tool_messages:
        if result.failed:
            id, session = f"tool_execution_failed:{result.session_id}:{result.seq}", result.session_id
            name = result.tool_name
            yield AuditEntry(result.at, "tool_execution_failed", id, session, session, tool_name=name)
    yield from _approval_entries(activity)


def _approval_entries(activity: Activity) -> Iterator[AuditEntry]:
    for approval in activity.approvals:
        session, about = approval.session_id, {"call_id": approval.call_id, "tool_name": approval.tool_name}
        id = f"{session}:{approval.call_id}"
        required: EventType = "tool_approval_required"
        yield AuditEntry(approval.created_at, required, f"{required}:{id}", session, session, **about)
        if approval.decided_at is not None and approval.status in DECISIONS:
            made: EventType = "hitl_decision_made"
            decision = DECISIONS[approval.status]
            yield AuditEntry(
                approval.decided_at, made, f"{made}:{id}", session, session, **about, decision=decision
            )


ROUTES = (
    Route("GET", "/events/metrics", get_metrics, {200: ConversationMetrics}),
    Route("GET", "/events/metrics/sessions", list_sessions_with_metrics, {200: SessionsWithMetrics}),
    Route(
        "GET",
        "/events/metrics/session/{session_id}",
        get_session_metrics,
        {200: SessionMetrics},
        errors=(MetricsNotFound,),
    ),
    Route("GET", "/events/audit-log", list_audit_log, {200: AuditLog}, errors=(SessionNotFound,)),
    Route("GET", "/events/stats", get_stats, {200: EventStats}),
)
