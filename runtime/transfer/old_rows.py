"""Rows of the older service as the commands and messages that store them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from runtime.errors import InvalidInput
from runtime.models import DEFAULT_AGENT, ApprovalStatus
from runtime.store.messages import NewMessage, new_message
from runtime.store.records import ApprovalRow, JsonText, SessionKey, SwitchRow
from runtime.store.validation import is_key
from runtime.store.write.commands import ImportSession
from runtime.transfer.old_times import Times
from runtime.transfer.old_values import decoded, is_object, storable, stored
from runtime.transfer.source import Finding, Note

Fields = Mapping[str, Any]

# What became of an approval; `cancelled` is what a closed dialogue left.
_STATUS: Mapping[str, ApprovalStatus] = {
    "pending": "pending",
    "approved": "approved",
    "edited": "edited",
    "rejected": "rejected",
    "cancelled": "rejected",
}


class SessionRows:
    """The rows of one session. `where` names it in findings."""

    def __init__(self, row: Fields, times: Times, note: Note) -> None:
        self.session_id: str = row["session_id"]
        self.where = f"session {self.session_id!r}"
        self._times = times
        self._note = note
        self._is_activity_local, self._is_context_local = times.local_parts(row)
        created_at = times.utc(row["created_at"]) or times.utc(row["last_activity"])
        if created_at is None:
            self._changed("times_replaced", "its creation")
        self.created_at = created_at or datetime.fromisoformat("1970-01-01T00:00:00+00:00")
        self.last_activity = self._time(
            row["last_activity"], self.created_at, "its last activity", local=self._is_activity_local
        )

    def _time(self, value: Any, otherwise: datetime, what: str, *, local: bool) -> datetime:
        time = self._times.utc(value, local=local)
        if time is None:
            self._changed("times_replaced", what)
        return time or otherwise

    def _changed(self, kind: str, what: str) -> None:
        self._note(Finding(kind, f"{what} of {self.where}", is_lost=False))

    def _lost(self, kind: str, what: str) -> None:
        self._note(Finding(kind, f"{what} of {self.where}"))

    def _text(self, value: Any, what: str) -> JsonText:
        text, is_changed = stored(value)
        if is_changed:
            self._changed("texts_escaped", what)
        return text

    def _optional(self, value: Any, what: str) -> JsonText | None:
        return None if value is None else self._text(value, what)

    def _metadata(self, text: str | None, what: str) -> JsonText:
        value = decoded(text)
        if value is not None and not is_object(value):
            self._changed("metadata_wrapped", what)
            value = {"value": value}
        return self._text(value or {}, what)

    def command(
        self,
        source: str,
        owner: str,
        row: Fields,
        context: Fields | None,
        switches: Sequence[Fields],
        approvals: Sequence[Fields],
    ) -> ImportSession:
        """The command that makes the session, without its messages."""
        rows, context = self._switches(switches), context or {}
        deleted_at = self._times.utc(row.get("deleted_at"))
        begun = self._context_time(context, "created_at", self.created_at)
        return ImportSession(
            SessionKey(owner, self.session_id),
            source,
            created_at=self.created_at,
            last_activity=self.last_activity,
            context_created_at=begun,
            context_updated_at=self._context_time(context, "updated_at", begun),
            title=self._optional(row.get("title"), "the title"),
            description=self._optional(row.get("description"), "the description"),
            # Deleting made a session inactive: restored, it is as it was before.
            is_active=deleted_at is not None or row.get("is_active") in (None, True, 1),
            deleted_at=deleted_at,
            agent=self._agent(context, rows),
            switch_count=sum(switch.from_agent != "" for switch in rows),
            context_metadata=self._metadata(context.get("metadata_json"), "the metadata of the context"),
            switches=tuple(rows),
            approvals=tuple(self._approvals(approvals)),
            is_whole=False,
        )

    def _context_time(self, context: Fields, name: str, otherwise: datetime) -> datetime:
        if context.get(name) is None:
            return otherwise
        local = self._is_context_local and name == "created_at"
        return self._time(context[name], otherwise, f"{name} of the context", local=local)

    def _agent(self, context: Fields, switches: Sequence[SwitchRow]) -> str:
        """The agent that holds the session: a context may lag behind its switches."""
        if switches:
            return switches[-1].to_agent
        agent = context.get("current_agent", DEFAULT_AGENT)
        if not is_key(agent):
            self._lost("agents_refused", f"the name of the agent {agent!r}")
            return DEFAULT_AGENT
        return str(agent)

    def _switches(self, rows: Sequence[Fields]) -> list[SwitchRow]:
        found: list[SwitchRow] = []
        for row in rows:
            origin, agent = row["from_agent"], row["to_agent"]
            if not is_key(agent) or not (origin is None or is_key(origin)):
                self._lost("switches_refused", f"the switch from {origin!r} to {agent!r}")
                continue
            what = f"switch {len(found) + 1}"
            time = self._time(row["switched_at"], self.created_at, what, local=self._is_context_local)
            reason = self._optional(row["reason"], what)
            metadata = self._metadata(row["metadata_json"], what)
            found.append(SwitchRow(len(found) + 1, origin or "", agent, time, reason, metadata))
        return found

    def _approvals(self, rows: Sequence[Fields]) -> list[ApprovalRow]:
        found: dict[str, ApprovalRow] = {}
        for row in rows:
            call_id, status = row["call_id"], _STATUS.get(row["status"])
            if call_id in found or status is None or not is_key(call_id):
                what = f"the approval {call_id!r} with the status {row['status']!r}"
                self._lost("approvals_refused", what)
            else:
                found[call_id] = self._approval(row, status, f"the approval {call_id!r}")
        return sorted(found.values(), key=lambda approval: (approval.created_at, approval.call_id))

    def _approval(self, row: Fields, status: ApprovalStatus, what: str) -> ApprovalRow:
        arguments = decoded(row["arguments"])
        details = decoded(row.get("details"))
        if arguments is None and is_object(details):
            arguments = details.get("arguments")
        return ApprovalRow(
            call_id=row["call_id"],
            tool_name=self._text(row["tool_name"] or "", what),
            arguments=self._text({} if arguments is None else arguments, what),
            reason=self._optional(row["reason"], what),
            status=status,
            created_at=self._time(row["created_at"], self.created_at, what, local=False),
            expires_at=None,
            decided_at=self._times.utc(row.get("decision_at")),
            modified_arguments=None,
            feedback=self._optional(row.get("decision_reason"), what),
        )

    def message(self, number: int, row: Fields) -> NewMessage | None:
        """A message of a table of messages; None for one that cannot be stored."""
        time = self._time(row["timestamp"], self.last_activity, f"message {number}", local=False)
        fields = {"role": row["role"], "content": row["content"], "timestamp": time}
        others = {
            "name": row["name"],
            "tool_call_id": row["tool_call_id"],
            "token_count": row["token_count"],
            "tool_calls": decoded(row["tool_calls"]),
            "metadata": decoded(row["metadata_json"]),
        }
        # A null that is given would be kept as one.
        fields.update({name: value for name, value in others.items() if value is not None})
        return self._message(number, fields)

    def inline_message(self, number: int, value: Any) -> NewMessage | None:
        """A message out of the list in a session: it has the time at which the session was saved."""
        if not is_object(value):
            value = {"role": "user", "content": value}
            self._changed("messages_changed", f"message {number}")
        fields = {name: part for name, part in value.items() if part is not None}
        return self._message(
            number, {"role": "user", "content": None, **fields, "timestamp": self.last_activity}
        )

    def _message(self, number: int, fields: dict[str, Any]) -> NewMessage | None:
        try:
            return new_message(fields)
        except InvalidInput:
            pass
        try:
            message = new_message(_fitting(fields))
        except InvalidInput as error:
            self._lost("messages_refused", f"message {number} ({error.problems[0].message})")
            return None
        self._changed("messages_changed", f"message {number}")
        return message


def _fitting(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a message as a message may have them."""
    time = fields.pop("timestamp")
    fitting: dict[str, Any] = storable(fields)
    for name in ("name", "tool_call_id"):
        if name in fitting and not isinstance(fitting[name], str):
            fitting[name] = stored(fitting[name])[0]
    if not isinstance(fitting["content"], str | list | None):
        fitting["content"] = stored(fitting["content"])[0]
    if not isinstance(fitting.get("tool_calls", []), list):
        fitting["tool_calls"] = [fitting["tool_calls"]]
    if not is_object(fitting.get("metadata", {})):
        fitting["metadata"] = {"value": fitting["metadata"]}
    return {**fitting, "timestamp": time}
