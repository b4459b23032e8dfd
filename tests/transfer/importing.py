"""Imports in this process, and what they leave, in the terms of expected.json."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from runtime.models import Session, decode_json
from runtime.store.store import Store, open_store
from runtime.transfer.importer import Importer
from runtime.transfer.report import Report
from runtime.transfer.sources import open_source


async def import_into(
    url: str, source: str, *, zone: str = "", merge: bool = False, owner: str = ""
) -> Report:
    """Import a source; the report of it."""
    opening = open_source(source, owner, ZoneInfo(zone) if zone else None, allow_cut=merge)
    with opening as opened:
        report = Report(opened.name, opened.description, url)
        async with open_store(url) as store:
            await Importer(opened, store, report, lambda *_: None).run(merge=merge)
    return report


async def read_all(url: str, owner: str = "") -> list[dict[str, Any]]:
    """Every session of an owner, as clients see it; deleted ones are restored for that."""
    async with open_store(url) as store:
        page = await store.list_sessions(limit=1000, include_deleted=True, owner=owner)
        assert page.next_cursor is None
        found = [await _read(store, session, owner) for session in page.sessions]
    return sorted(found, key=lambda session: str(session["created_at"]))


async def _read(store: Store, session: Session, owner: str) -> dict[str, Any]:
    id = session.session_id
    if session.deleted_at is not None:
        await store.restore_session(id, owner=owner)
    context = await store.get_context(id, owner=owner)
    messages: list[dict[str, Any]] = []
    more = True
    while more:
        page = await store.list_messages(
            id, after=messages[-1]["seq"] if messages else 0, limit=1000, owner=owner
        )
        messages += page.messages
        more = page.more
    approvals = await store.list_approvals(id, owner=owner)
    return {
        "session_id": id,
        "title": session.title,
        "description": session.description,
        "created_at": _time(session.created_at),
        "last_activity": _time(session.last_activity),
        "is_active": session.is_active,
        "deleted_at": _time(session.deleted_at),
        "message_count": session.message_count,
        "messages": [{name: part for name, part in message.items() if name != "seq"} for message in messages],
        "current_agent": session.current_agent,
        "switch_count": context.switch_count,
        "context_metadata": context.metadata,
        "switches": [
            {
                "from_agent": switch.from_agent,
                "to_agent": switch.to_agent,
                "reason": switch.reason,
                "switched_at": _time(switch.switched_at),
                "metadata": switch.metadata,
            }
            for switch in await store.list_agent_history(id, owner=owner)
        ],
        "approvals": [
            {
                "call_id": approval.call_id,
                "tool_name": approval.tool_name,
                "arguments": decode_json(approval.encoded_arguments),
                "reason": approval.reason,
                "status": approval.status,
                "created_at": _time(approval.created_at),
                "decided_at": _time(approval.decided_at),
                "feedback": approval.feedback,
            }
            for approval in approvals.approvals
        ],
    }


def _time(time: datetime | None) -> str | None:
    return None if time is None else f"{time:%Y-%m-%dT%H:%M:%S.%fZ}"


def fitting(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was found, without what the wanted leaves open: times, and titles that nobody set."""
    for session, other in zip(found, wanted, strict=True):
        if other["title"] is None:
            session["title"] = None
        for message, wanted_message in zip(session["messages"], other["messages"], strict=True):
            if wanted_message["timestamp"] is None:
                message["timestamp"] = None
    return found
