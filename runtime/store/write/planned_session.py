"""A session while a batch is planned: changed in memory, then converted to the rows to write."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from msgspec import Raw, structs

from runtime.models import LEFT_OUT, MAX_SEQ, AgentContext, Session
from runtime.store.changes import Change
from runtime.store.labels import AGENT, IS_ACTIVE, MEMBER, active_label, labels_of, member_labels
from runtime.store.messages import NewMessage
from runtime.store.records import (
    ApprovalRow,
    Details,
    Head,
    ImportMark,
    JsonText,
    MessageRow,
    SwitchRow,
    bytes_of,
    decode_optional,
)
from runtime.store.write.erasing import Portion
from runtime.store.write.fork_commands import CopiedRows
from runtime.store.write.outcomes import Receipt
from runtime.store.write.planned_turn import PlannedTurn
from runtime.store.write.statements import Rows


class PlannedSession:
    """A session after the commands planned so far. `base` is the stored head, None for a new session."""

    def __init__(self, head: Head, details: Details | None, *, base: Head | None) -> None:
        self.id, self.key, self.base = head.id, head.key, base
        self.version = head.version
        self.last_seq = head.last_seq
        self.last_activity = head.last_activity
        self.deleted_at = head.deleted_at
        self.cut_version = head.cut_version
        self.changed_version = head.changed_version
        self.cut_after, self.cut_through = head.cut_after, head.cut_through
        self.first_user_seq = head.first_user_seq
        self.first_user_text: JsonText | None = details.first_user_text if details else None
        self.details = self.stored_details = details
        # The messages stored before this batch that are left, and the messages that it adds.
        self.stored_count, self.stored_tokens = head.message_count, head.token_total
        self.stored_last = head.last_seq
        # How many of the stored messages a cut may erase in the batch's own transaction.
        self.cut_at_once = 0
        self.added: list[MessageRow] = []
        self.switches: list[SwitchRow] = []
        # Whether the stored switches go, and whether the session has no agent context of its own.
        self.are_switches_replaced = False
        self.is_bare = self.was_bare = False
        self.approvals: dict[str, ApprovalRow] = {}
        self.stored_approvals: dict[str, ApprovalRow] = {}
        self.deleted_approvals: set[str] = set()
        self.turns: list[PlannedTurn] = []
        # What is copied from another session, if this is a fork.
        self.copied: CopiedRows | None = None
        self.import_mark: ImportMark | None = None
        self.stored_import: ImportMark | None = None
        self.changed: set[Change] = set()
        self._last_encoded: tuple[JsonText, Raw] = ("", LEFT_OUT)

    @property
    def message_count(self) -> int:
        return self.stored_count + len(self.added)

    @property
    def token_total(self) -> int:
        return self.stored_tokens + sum([row.token_count or 0 for row in self.added])

    def raise_version(self, at: datetime, *changes: Change) -> None:
        """Record a change (W4). `last_activity` never decreases, even if the clock is set back."""
        self.version += 1
        self.last_activity = max(self.last_activity, at)
        if changes:
            self.changed_version = self.version
            self.changed.update(changes)

    def append(self, messages: Sequence[NewMessage], at: datetime) -> list[Receipt]:
        """Give each message the next sequence number (W4)."""
        return [self._append(message, at) for message in messages]

    def _append(self, message: NewMessage, at: datetime) -> Receipt:
        self.last_seq += 1
        timestamp = message.timestamp or at
        if self.first_user_seq is None and message.title is not None:
            self.first_user_seq, self.first_user_text = self.last_seq, message.title
        self.added.append(
            MessageRow(
                self.last_seq,
                message.role,
                message.content,
                timestamp,
                message.name,
                message.tool_call_id,
                message.tool_calls,
                message.token_count,
                message.metadata,
                message.extra,
            )
        )
        return Receipt(self.last_seq, timestamp)

    def cut(self, after: int, stored_count: int, stored_tokens: int) -> int:
        """Remove every message after a number; return how many.

        `stored_count` and `stored_tokens` are those of the stored messages that are left.
        """
        before = self.message_count
        if after < self.stored_last:
            self.stored_last = after
            self.stored_count, self.stored_tokens = stored_count, stored_tokens
        self.added = [row for row in self.added if row.seq <= after]
        if self.first_user_seq is not None and self.first_user_seq > after:
            self.first_user_seq = self.first_user_text = None
        removed = before - self.message_count
        if removed:
            self.cut_version = self.version + 1
        return removed

    def shorten_cut(self, portion: Portion) -> None:
        """Note which messages of earlier cuts a portion erases."""
        if self.base is not None and portion.head is not None and self.id == portion.head.id:
            self.cut_after = 0 if portion.finished else portion.after
            self.cut_through = 0 if portion.finished else self.base.cut_through

    def cut_left(self) -> tuple[int, int]:
        """The removed messages that are still to be erased: after the first number, up to the second."""
        base, left = self.base, (self.cut_after, self.cut_through)
        if base is None or self.stored_count == base.message_count:
            return left
        if self.cut_through > self.stored_last:
            # The cut overlaps with the range that earlier cuts left: they become one range.
            return min(self.cut_after, self.stored_last), base.last_seq
        # A head holds one range: messages added since the first cut are erased at once, however many.
        if self.cut_through or base.message_count - self.stored_count <= self.cut_at_once:
            return left
        return self.stored_last, base.last_seq

    @property
    def is_cut_changed(self) -> bool:
        return self.base is not None and self.cut_left() != (self.base.cut_after, self.base.cut_through)

    def known_details(self) -> Details:
        assert self.details is not None, "the batch did not load the details that a command needs"
        return self.details

    def change_details(self, **fields: Any) -> None:
        self.details = structs.replace(self.known_details(), **fields)

    def head(self) -> Head:
        return Head(
            id=self.id,
            key=self.key,
            version=self.version,
            last_seq=self.last_seq,
            message_count=self.message_count,
            token_total=self.token_total,
            last_activity=self.last_activity,
            deleted_at=self.deleted_at,
            cut_version=self.cut_version,
            changed_version=self.changed_version,
            cut_after=self.cut_left()[0],
            cut_through=self.cut_left()[1],
            first_user_seq=self.first_user_seq,
        )

    def session(self) -> Session:
        """The public model of the session."""
        details = self.known_details()
        return Session(
            session_id=self.key.session_id,
            title=decode_optional(details.title or self.first_user_text),
            description=decode_optional(details.description),
            encoded_metadata=self._encoded(details.metadata),
            created_at=details.created_at,
            last_activity=self.last_activity,
            is_active=details.is_active and self.deleted_at is None,
            deleted_at=self.deleted_at,
            version=self.version,
            last_seq=self.last_seq,
            message_count=self.message_count,
            current_agent=details.current_agent,
            forked_from=details.forked_from,
        )

    def context(self) -> AgentContext:
        """The public model of the agent context."""
        details = self.known_details()
        return AgentContext(
            session_id=self.key.session_id,
            version=self.version,
            current_agent=details.current_agent,
            switch_count=details.switch_count,
            created_at=details.context_created_at,
            updated_at=details.context_updated_at,
            encoded_metadata=self._encoded(details.context_metadata),
        )

    def _encoded(self, text: JsonText | None) -> Raw:
        """A text as replies contain it. Replies of one batch share it, since it may have megabytes."""
        if text is None:
            return LEFT_OUT
        if self._last_encoded[0] is not text:
            self._last_encoded = (text, Raw(text))
        return self._last_encoded[1]

    def write(self, rows: Rows) -> None:
        """Add the rows to write, after the whole batch is planned."""
        if self.base is None:
            self._write_new(rows)
        elif self.version != self.base.version:
            self._write_changes(rows, self.base)
        if self.base is not None:
            self._write_cut(rows, self.base)
        if self.are_switches_replaced and self.base is not None:
            rows["erase_agent_switches"].append((self.id, MAX_SEQ))
        if self.is_bare != self.was_bare:
            rows["insert_bare_session" if self.is_bare else "delete_bare_session"].append((self.id,))
        rows["insert_message"] += [(self.id, *row, row.size) for row in self.added]
        rows["insert_agent_switch"] += [
            (self.id, *switch, bytes_of(switch.reason, switch.metadata)) for switch in self.switches
        ]
        self._write_approvals(rows)
        self._write_import(rows)
        for turn in self.turns:
            turn.write(rows)

    def _write_new(self, rows: Rows) -> None:
        details, head = self.known_details(), self.head()
        is_hidden = self.copied is not None and self.copied.is_revealed
        rows["reveal_session" if is_hidden else "insert_session"].append(
            (
                *(self.id, self.key.owner, self.key.session_id),
                *(details.title, details.description, details.metadata, details.created_at),
                *(head.last_activity, details.is_active, head.deleted_at),
                *(head.version, head.last_seq, head.message_count, head.token_total),
                *(head.cut_version, head.changed_version, head.cut_after, head.cut_through),
                *(head.first_user_seq, self.first_user_text, self._size(details)),
            )
        )
        rows["insert_agent_context"].append(
            (
                *(self.id, details.current_agent, details.context_created_at),
                *(details.context_updated_at, details.switch_count, details.context_metadata),
            )
        )
        if details.forked_from_id is not None:
            rows["insert_forked_session"].append((self.id, details.forked_from_id, details.forked_from_seq))
        if self.copied is not None:
            self._write_copies(rows, self.copied)
        is_live = details.is_active and head.deleted_at is None
        labels = labels_of(details.current_agent, details.created_at, is_live, details.metadata or "{}")
        rows["insert_session_label"] += [(self.id, *label, self.key.owner) for label in labels]

    def _write_copies(self, rows: Rows, copied: CopiedRows) -> None:
        rows["copy_messages"].append((copied.source_db_id, self.id, copied.after, copied.through))
        rows["copy_agent_switches"].append((copied.source_db_id, self.id, copied.last_switch))
        if copied.is_revealed:
            rows["delete_unfinished_fork"].append((self.id,))

    def _write_changes(self, rows: Rows, base: Head) -> None:
        rows["update_head"].append(
            (
                *(self.id, base.version),
                *(self.version, self.last_seq, self.message_count, self.token_total),
                *(self.last_activity, self.cut_version, self.changed_version),
                *(self.first_user_seq, self.first_user_text),
            )
        )
        if self.details is not None:
            self._write_details(rows, base, self.details)

    def _write_cut(self, rows: Rows, base: Head) -> None:
        """Erase the removed messages, or leave them to be erased in portions."""
        left = self.cut_left()
        if self.stored_count < base.message_count and left[1] != base.last_seq:
            rows["erase_messages"].append((self.id, self.stored_last, base.last_seq))
        if left != (base.cut_after, base.cut_through):
            rows["update_cut"].append((self.id, *left))

    def _write_details(self, rows: Rows, base: Head, details: Details) -> None:
        session = _session_columns(details)
        if session != _session_columns(self.stored_details) or self.deleted_at != base.deleted_at:
            rows["update_session"].append((self.id, *session, self.deleted_at, self._size(details)))
        context = _context_columns(details)
        if context != _context_columns(self.stored_details):
            rows["update_agent_context"].append((self.id, *context))
        stored = self.stored_details
        if stored is not None:
            self._write_labels(rows, base, stored, details)
        if stored is not None and details.context_created_at != stored.context_created_at:
            rows["update_context_creation"].append((self.id, details.context_created_at))

    def _write_labels(self, rows: Rows, base: Head, stored: Details, details: Details) -> None:
        if details.current_agent != stored.current_agent:
            rows["update_session_label"].append((self.id, AGENT, details.current_agent))
        is_live = details.is_active and self.deleted_at is None
        if is_live != (stored.is_active and base.deleted_at is None):
            rows["update_session_label"].append((self.id, IS_ACTIVE, active_label(is_live)))
        if details.metadata is not None and details.metadata != stored.metadata:
            rows["erase_session_labels"].append((self.id, MEMBER))
            labels = member_labels(details.metadata)
            rows["insert_session_label"] += [(self.id, *label, self.key.owner) for label in labels]

    def _size(self, details: Details) -> int:
        """The bytes of the details. A first message added later makes it wrong by less than a kilobyte."""
        return bytes_of(details.title, details.description, details.metadata, self.first_user_text)

    def _write_import(self, rows: Rows) -> None:
        mark = self.import_mark
        if mark is None or mark == self.stored_import:
            return
        if self.stored_import is None:
            rows["insert_import"].append((self.id, mark.source, mark.whole_version))
        else:
            rows["update_import"].append((self.id, mark.whole_version))

    def _write_approvals(self, rows: Rows) -> None:
        rows["delete_approval"] += [(self.id, call_id) for call_id in self.deleted_approvals]
        for call_id, new in self.approvals.items():
            stored = self.stored_approvals.get(call_id)
            if stored is None or call_id in self.deleted_approvals:
                rows["insert_approval"].append((self.id, *structs.astuple(new), _approval_size(new)))
            elif stored != new:
                decided = (new.decided_at, new.modified_arguments, new.feedback)
                rows["update_approval"].append(
                    (self.id, call_id, new.status, new.expires_at, *decided, _approval_size(new))
                )


def _session_columns(details: Details | None) -> tuple[object, ...]:
    return (
        ()
        if details is None
        else (
            details.title,
            details.description,
            details.metadata,
            details.is_active,
        )
    )


def _context_columns(details: Details | None) -> tuple[object, ...]:
    return (
        ()
        if details is None
        else (
            details.current_agent,
            details.context_updated_at,
            details.switch_count,
            details.context_metadata,
        )
    )


def _approval_size(row: ApprovalRow) -> int:
    return bytes_of(row.tool_name, row.arguments, row.reason, row.modified_arguments, row.feedback)
