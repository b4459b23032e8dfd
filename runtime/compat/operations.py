"""What the methods of the earlier databases do, each as one call on a store.

Each function checks and copies what it is given at once, and returns a coroutine: the caller may change its
lists and dicts afterwards. Results have the shapes of the earlier service.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Coroutine, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

from runtime.compat.exceptions import IntegrityError
from runtime.errors import InvalidInput, SessionNotFound
from runtime.models import MAX_LIMIT, AgentSwitch, ApprovalStatus, utc_now
from runtime.store.saved_states import saved_switch
from runtime.store.store import Store

logger = logging.getLogger("agent_runtime.compat")

ROLES = ("user", "assistant", "system", "tool")
TITLE_LENGTH = 500
# A dialogue that was closed is a rejection: the call does not run.
STATUSES: dict[str, ApprovalStatus] = {
    "pending": "pending",
    "approved": "approved",
    "rejected": "rejected",
    "cancelled": "rejected",
}

Values = dict[str, Any]


# Times.


def as_utc(time: datetime) -> datetime:
    """The time with its zone: one without a zone is UTC."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def without_zone(time: datetime) -> datetime:
    """The time in UTC as the earlier service gave it: without a zone."""
    return time.astimezone(UTC).replace(tzinfo=None)


# Sessions.


def save_session(
    store: Store, session_id: str, messages: Sequence[Mapping[str, Any]], last_activity: datetime
) -> Coroutine[Any, Any, None]:
    """Make this the history of a session. Raises IntegrityError."""
    stored = [_stored_message(message) for message in messages]
    return _save_session(store, session_id, stored, as_utc(last_activity), _title(messages))


async def _save_session(
    store: Store, session_id: str, messages: list[Values], last_activity: datetime, title: str | None
) -> None:
    try:
        await store.saved.save_session(session_id, messages, last_activity, title=title)
    except (SessionNotFound, InvalidInput) as error:
        raise IntegrityError(str(error)) from error


def _stored_message(message: Mapping[str, Any]) -> Values:
    """A message as the store takes it: the known fields, as far as they say something."""
    role = message.get("role", "user")
    if role not in ROLES:
        raise IntegrityError(f"role {role!r} is none of {', '.join(ROLES)}")
    stored: Values = {"role": role, "content": message.get("content")}
    for name in ("name", "tool_call_id"):
        if value := message.get(name):
            stored[name] = value
    for name in ("tool_calls", "metadata"):
        if value := message.get(name):
            stored[name] = json_value(value)
    if stored["content"] is None and "tool_calls" not in stored:
        stored["content"] = ""
    return stored


def json_value(value: Any) -> Any:
    """A copy of a value as JSON has it. Raises TypeError for what JSON has no room for."""
    return json.loads(json.dumps(value))


def _title(messages: Sequence[Mapping[str, Any]]) -> str | None:
    first = next((message for message in messages if message.get("role") == "user"), {})
    content = first.get("content")
    return content[:TITLE_LENGTH] if content and isinstance(content, str) else None


async def load_session(store: Store, session_id: str) -> Values | None:
    """A session with its messages; None where there is none, or it is deleted."""
    try:
        session = await store.get_session(session_id)
        history = await store.get_history(session_id)
    except SessionNotFound:
        return None
    return {
        "session_id": session_id,
        "messages": [_shown_message(message) for message in history.messages],
        "last_activity": without_zone(history.last_activity),
        "created_at": without_zone(session.created_at),
    }


def _shown_message(message: Values) -> Values:
    shown = {"role": message["role"], "content": message["content"]}
    fields = {name: message.get(name) for name in ("name", "tool_call_id", "tool_calls")}
    return {**shown, **{name: value for name, value in fields.items() if value}}


async def exists(store: Store, session_id: str) -> bool:
    """Whether there is a session that is not deleted."""
    try:
        await store.get_session(session_id)
    except SessionNotFound:
        return False
    return True


async def delete_session(store: Store, session_id: str, soft: bool) -> bool:
    """Delete a session, or erase it; False where there is none."""
    return await store.saved.delete_session(session_id, hard=not soft)


async def list_all_sessions(store: Store, include_deleted: bool) -> list[str]:
    """The ids of all sessions, latest activity first."""
    found = await store.saved.list_sessions(include_deleted=include_deleted)
    return [session_id for session_id, _ in found]


async def get_messages_paginated(store: Store, session_id: str, page: int, page_size: int) -> list[Values]:
    """A page of messages, oldest first; empty for an unknown session."""
    page = max(page, 1)
    if page_size < 1:
        return []
    try:
        if page_size <= MAX_LIMIT:
            messages = (await store.list_numbered_page(session_id, page=page, page_size=page_size)).messages
        else:
            start = (page - 1) * page_size
            messages = (await store.get_history(session_id)).messages[start : start + page_size]
    except SessionNotFound:
        return []
    return [_shown_message(message) for message in messages]


async def get_session_stats(store: Store, session_id: str) -> Values | None:
    """What a session has grown to; None for an unknown one."""
    try:
        stats = await store.get_stats(session_id)
    except SessionNotFound:
        return None
    last = stats.last_message_at
    return {
        "session_id": session_id,
        "message_count": stats.message_count,
        "total_tokens": stats.total_tokens,
        "last_message_at": None if last is None else without_zone(last),
        "created_at": without_zone(stats.created_at),
        "last_activity": without_zone(stats.last_activity),
    }


async def update_session_title(store: Store, session_id: str, title: str) -> bool:
    """Set a title, of which the first 500 characters count; False for an unknown session."""
    try:
        await store.saved.save_details(session_id, title=title[:TITLE_LENGTH])
    except SessionNotFound:
        return False
    return True


async def update_session_description(store: Store, session_id: str, description: str) -> bool:
    """Set a description; False for an unknown session."""
    try:
        await store.saved.save_details(session_id, description=description)
    except SessionNotFound:
        return False
    return True


async def cleanup_old_sessions(store: Store, max_age_hours: float) -> int:
    """Delete sessions without activity for longer; return how many."""
    return await store.saved.delete_idle_sessions(timedelta(hours=max_age_hours))


async def hard_delete_old_sessions(store: Store, days_old: float) -> int:
    """Erase sessions that were deleted longer ago; return how many."""
    return await store.saved.erase_deleted_sessions(timedelta(days=days_old))


# Agent contexts.


def save_agent_context(
    store: Store,
    session_id: str,
    current_agent: str,
    agent_history: Sequence[Mapping[str, Any]],
    metadata: Mapping[str, Any] | None,
    created_at: datetime,
    switch_count: int,
) -> Coroutine[Any, Any, bool]:
    """Save an agent context; False for an unknown session.

    Raises TypeError for metadata that is no JSON, and IntegrityError for a name that no agent can have.
    """
    agent = _name(current_agent)
    try:
        switches = [_saved_switch(entry, agent) for entry in agent_history]
    except InvalidInput as error:
        raise IntegrityError(str(error)) from error
    # They are listed by their times, whatever order they come in.
    switches.sort(key=lambda switch: switch.switched_at)
    values = json_value(metadata or {})

    async def save() -> bool:
        try:
            await store.saved.save_context(
                session_id,
                agent,
                metadata=values,
                created_at=as_utc(created_at),
                switch_count=switch_count,
                switches=switches,
            )
        except SessionNotFound as error:
            logger.error("the agent context is not saved: %s", error)
            return False
        except InvalidInput as error:
            raise IntegrityError(str(error)) from error
        return True

    return save()


def _name(agent: Any) -> Any:
    """The name of an agent, of one of an Enum too."""
    return agent.value if isinstance(agent, Enum) else agent


def _saved_switch(entry: Mapping[str, Any], current_agent: str) -> Any:
    timestamp = entry.get("timestamp") or utc_now()
    if not isinstance(timestamp, datetime):
        timestamp = datetime.fromisoformat(timestamp)
    return saved_switch(
        _name(entry.get("from")),
        _name(entry.get("to", current_agent)),
        as_utc(timestamp),
        reason=entry.get("reason"),
        metadata=json_value(entry.get("metadata") or {}),
    )


async def load_agent_context(store: Store, session_id: str) -> Values | None:
    """An agent context with its handovers; None where nobody has saved one."""
    try:
        if not await store.saved.has_context(session_id):
            return None
        context = await store.get_context(session_id)
        switches = (await store.saved.list_switches(session_id))[::-1]
    except SessionNotFound:
        return None
    return {
        "session_id": session_id,
        "current_agent": context.current_agent,
        "agent_history": [_history_entry(switch) for switch in switches],
        "metadata": context.metadata,
        "created_at": without_zone(context.created_at),
        "last_switch_at": without_zone(switches[-1].switched_at) if switches else None,
        "switch_count": context.switch_count,
    }


def _history_entry(switch: AgentSwitch) -> Values:
    return {
        "from": switch.from_agent,
        "to": switch.to_agent,
        "reason": switch.reason,
        "timestamp": without_zone(switch.switched_at).isoformat(),
    }


async def delete_agent_context(store: Store, session_id: str) -> bool:
    """Take an agent context away; False where nobody has saved one."""
    return await store.saved.remove_context(session_id)


async def list_all_contexts(store: Store) -> list[str]:
    """The ids of the sessions with an agent context."""
    return await store.saved.list_contexts()


async def get_agent_switch_history(store: Store, session_id: str, limit: int) -> list[Values]:
    """The latest handovers, latest first; empty for an unknown session."""
    try:
        switches = await store.saved.list_switches(session_id, limit=max(limit, 0))
    except SessionNotFound:
        return []
    return [
        {
            "id": switch.id,
            "from_agent": switch.from_agent,
            "to_agent": switch.to_agent,
            "switched_at": without_zone(switch.switched_at),
            "reason": switch.reason,
            "metadata": switch.metadata,
        }
        for switch in switches
    ]


# Approvals.


def save_pending_approval(
    store: Store, session_id: str, call_id: str, tool_name: str, arguments: Any, reason: str | None
) -> Coroutine[Any, Any, None]:
    """Let a tool call wait; one that is known in any session stays as it is."""
    values = json_value(arguments)

    async def save() -> None:
        if not await store.saved.save_approval(session_id, call_id, tool_name, values, reason=reason):
            logger.warning("call %r has an approval already, which stays as it is", call_id)

    return save()


async def get_pending_approvals(store: Store, session_id: str) -> list[Values]:
    """The tool calls of a session that wait, oldest first."""
    return [
        {
            "call_id": approval.call_id,
            "tool_name": approval.tool_name,
            "arguments": approval.arguments,
            "reason": approval.reason,
            "created_at": without_zone(approval.created_at),
        }
        for approval in await store.saved.list_pending_approvals(session_id)
    ]


async def delete_pending_approval(store: Store, call_id: str) -> bool:
    """Take the approval for a call away; False where there is none."""
    return await store.saved.set_approval_status(call_id, None)


async def update_approval_status(store: Store, call_id: str, status: str) -> bool:
    """Set the status of the approval for a call; False where there is none. Raises ValueError."""
    if status not in STATUSES:
        raise ValueError(f"status {status!r} is none of {', '.join(STATUSES)}")
    return await store.saved.set_approval_status(call_id, STATUSES[status])
