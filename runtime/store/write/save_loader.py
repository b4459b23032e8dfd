"""Reads what commands that save a given state have to know before they are planned."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.db.database import Transaction
from runtime.store.records import SessionKey
from runtime.store.validation import json_list
from runtime.store.write.batch import PlanInput
from runtime.store.write.commands import Request
from runtime.store.write.save_commands import RemoveContext, SaveApproval, SaveContext, SaveSession

_ABOUT_CONTEXTS = (SaveSession, SaveContext, RemoveContext)


async def load_saved(tx: Transaction, requests: Sequence[Request], stored: PlanInput) -> None:
    """Which sessions have no agent context of their own, and which have an approval for a call."""
    keys = {request.key for request in requests if isinstance(request.command, _ABOUT_CONTEXTS)}
    if ids := sorted(stored.heads[key].id for key in keys & stored.heads.keys()):
        rows = await tx.fetch("list_bare_sessions", json_list(ids))
        stored.bare_sessions |= {row["session_db_id"] for row in rows}
    calls = {r.command.call_id for r in requests if isinstance(r.command, SaveApproval)}
    if calls:
        for row in await tx.fetch("list_approval_places", json_list(sorted(calls))):
            place = SessionKey(row["owner"], row["session_id"])
            stored.approval_places.setdefault(row["call_id"], set()).add(place)
