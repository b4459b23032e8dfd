"""The statements of a batch and their order."""

from __future__ import annotations

from collections import defaultdict

# The statements of a batch in the order in which they run: deletions first.
STATEMENTS = (
    # Referring rows first, so that no cascade finds any.
    "erase_messages",
    "erase_turn_events",
    "erase_agent_switches",
    "erase_approvals",
    "erase_turns",
    "erase_session_labels",
    "delete_unlabelled_session",
    "delete_session",
    "release_session",
    "insert_session",
    "reveal_session",
    "insert_hidden_session",
    "delete_unfinished_fork",
    "insert_unfinished_fork",
    "insert_forked_session",
    "insert_agent_context",
    "insert_session_label",
    "delete_bare_session",
    "insert_bare_session",
    "insert_import",
    # Before the rows that refer to it: a head at another version than expected ends the batch here.
    "update_head",
    "update_session",
    "update_session_label",
    "update_cut",
    "update_import",
    "insert_message",
    # After those that the batch adds to the session that is copied.
    "copy_messages",
    "update_agent_context",
    "update_context_creation",
    "insert_agent_switch",
    "copy_agent_switches",
    "update_turn",
    "insert_turn",
    "insert_turn_event",
    "append_turn_text",
    "delete_approval",
    "insert_approval",
    "update_approval",
    # Before new ones: a request of the same batch may have used one of them again.
    "delete_idempotency_keys",
    "insert_idempotency_key",
    "delete_old_idempotency_keys",
    "delete_old_writers",
    "delete_old_turn_events",
    "forget_turn_events",
    "insert_search_entry",
    "delete_from_search_queue",
    "update_search_backfill",
    "merge_word_segments",
)

Rows = defaultdict[str, list[tuple[object, ...]]]
