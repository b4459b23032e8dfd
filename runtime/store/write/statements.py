"""What a batch writes: which statements, in which order."""

from __future__ import annotations

from collections import defaultdict

# The statements of a batch in the order in which they run: what goes away makes room for what comes.
STATEMENTS = (
    # What refers to others before those, so that a cascade finds nothing.
    "erase_messages",
    "erase_turn_events",
    "erase_agent_switches",
    "erase_approvals",
    "erase_turns",
    "delete_session",
    "release_session",
    "insert_session",
    "insert_agent_context",
    "insert_import",
    # Before what refers to it: a head that is not what it was taken for ends the batch here.
    "update_head",
    "update_session",
    "update_cut",
    "update_import",
    "insert_message",
    "update_agent_context",
    "insert_agent_switch",
    "update_turn",
    "insert_turn",
    "insert_turn_event",
    "append_turn_text",
    "delete_approval",
    "insert_approval",
    "update_approval",
    "insert_idempotency_key",
    "delete_old_idempotency_keys",
    "delete_old_writers",
    "delete_old_turn_events",
    "forget_turn_events",
)

Rows = defaultdict[str, list[tuple[object, ...]]]
