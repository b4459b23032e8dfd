"""Loads the sessions of an earlier version that have no labels yet."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.db.database import Transaction
from runtime.models import MAX_SEQ
from runtime.store.records import LARGE_TEXT
from runtime.store.validation import json_list
from runtime.store.write.batch import PlanInput, UnlabelledSession
from runtime.store.write.commands import LabelSessions, Request


async def load_unlabelled(tx: Transaction, requests: Sequence[Request], stored: PlanInput) -> None:
    """Load the sessions of the next portion; of those with large metadata only one."""
    portions = [request.command.rows for request in requests if isinstance(request.command, LabelSessions)]
    if not portions:
        return
    large_is_loaded = False
    for row in await tx.fetch("lock_unlabelled_sessions", max(portions), LARGE_TEXT):
        (id, owner, created_at, is_active, deleted_at, agent, metadata) = row
        if metadata is None:
            if large_is_loaded:
                continue
            [details] = await tx.fetch("list_details", json_list([id]), MAX_SEQ)
            metadata, large_is_loaded = details["metadata"], True
        is_live = bool(is_active) and deleted_at is None
        stored.unlabelled.append(UnlabelledSession(id, owner, created_at, is_live, agent, metadata))
