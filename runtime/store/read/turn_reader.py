"""Reads turns and their events."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from runtime.db.database import Database
from runtime.errors import TurnNotFound
from runtime.models import Approval, ApprovalStatus, TurnList
from runtime.store.paging import CHUNK_BYTES, Listing, fetch_page
from runtime.store.read.reader import Reader
from runtime.store.records import (
    Head,
    JsonText,
    SessionKey,
    TurnPiece,
    TurnRow,
    decode,
    turn_from,
    turn_row_from,
)
from runtime.store.validation import is_key, json_list

# The most events that are read at a time.
PAGE = 200
EVENTS = Listing("list_turn_events", "measure_turn_events")


class CallDecision(Struct, frozen=True):
    """The status of the approval for a call; `edited_bytes` is the size of the edited arguments."""

    call_id: str
    tool_name: str
    status: ApprovalStatus
    edited_bytes: int


class TurnReader:
    """Reads stored turns."""

    def __init__(self, database: Database, reader: Reader) -> None:
        self._database = database
        self._reader = reader

    async def find_turn(self, session_db_id: int, turn_id: str) -> TurnRow | None:
        """A turn of the session with this db id."""
        rows = await self._database.fetch("find_turn", session_db_id, turn_id)
        return turn_row_from(rows[0]) if rows else None

    async def get_turn(self, key: SessionKey, turn_id: str) -> tuple[Head, TurnRow]:
        """A turn, and the head of its session. Raises SessionNotFound, TurnNotFound."""
        head = await self._reader.get_head(key)
        turn = await self.find_turn(head.id, turn_id)
        if turn is None:
            raise TurnNotFound(key.session_id, turn_id)
        return head, turn

    async def list_turns(self, key: SessionKey, limit: int) -> TurnList:
        """The turns of a session, latest first. Raises SessionNotFound."""
        head = await self._reader.get_head(key)
        rows = await self._database.fetch("list_turns", head.id, limit)
        return TurnList(key.session_id, head.version, [turn_from(turn_row_from(row)) for row in rows])

    async def list_events(self, session_db_id: int, turn_n: int, from_n: int) -> tuple[list[TurnPiece], bool]:
        """A page of a turn's events, from a number on, and whether more follow.

        It has at least two: the first may be a text that its reader has in full.
        """
        place = (session_db_id, turn_n, from_n)
        rows, more = await fetch_page(self._database, EVENTS, place, PAGE, CHUNK_BYTES, least=2)
        return [TurnPiece(turn_n, row["n"], row["kind"], 0, row["data"]) for row in rows], more

    async def find_caller(self, key: SessionKey, approval: Approval) -> str | None:
        """The agent whose turn asked for an approval. Raises SessionNotFound."""
        head = await self._reader.get_head(key)
        rows = await self._database.fetch("find_calling_agent", head.id, approval.created_at)
        return rows[0]["agent"] if rows else None

    async def list_decisions(
        self, key: SessionKey, call_ids: Sequence[str], now: datetime
    ) -> list[CallDecision]:
        """The approvals for these calls, with their status at a time. Raises SessionNotFound."""
        head = await self._reader.get_head(key)
        rows = await self._database.fetch("list_decisions", _names(head, call_ids))
        return [
            CallDecision(
                row["call_id"],
                decode(row["tool_name"]),
                # A pending approval expires without a write.
                "expired"
                if row["status"] == "pending" and row["expires_at"] is not None and row["expires_at"] <= now
                else row["status"],
                row["edited_bytes"] or 0,
            )
            for row in rows
        ]

    async def list_edited_arguments(self, key: SessionKey, call_ids: Sequence[str]) -> dict[str, JsonText]:
        """The arguments that replace the model's, by call. Raises SessionNotFound."""
        head = await self._reader.get_head(key)
        rows = await self._database.fetch("list_edited_arguments", _names(head, call_ids))
        return {row["call_id"]: row["modified_arguments"] for row in rows}


def _names(head: Head, call_ids: Sequence[str]) -> str:
    return json_list([(head.id, call_id) for call_id in call_ids if is_key(call_id)])
