-- Databases of the older service: sessions, messages, contexts and switches. Each version has its own columns; a
-- statement fits those that its comment names. A list goes in as an array.

-- name: count_sessions()
SELECT count(*) AS sessions FROM sessions;

-- name: list_inline_sessions()
-- The first version keeps the messages in the session.
SELECT session_id, messages, created_at, last_activity FROM sessions ORDER BY session_id;

-- name: list_inline_contexts(session_ids)
-- The first version keeps the switches in the context.
SELECT session_id, current_agent, agent_history, context_metadata, created_at, last_switch_at
  FROM agent_contexts
 WHERE session_id = ANY ($1);

-- name: list_untitled_sessions()
-- Before there were titles.
SELECT s.id, s.session_id, NULL::text AS title, NULL::text AS description, s.created_at, s.last_activity, s.is_active,
       s.deleted_at, count(m.timestamp) AS message_count, max(m.timestamp) AS last_message_at
  FROM sessions AS s
  LEFT JOIN messages AS m ON m.session_db_id = s.id
 GROUP BY s.id
 ORDER BY s.id;

-- name: list_numbered_sessions()
-- While the key was not the id of the session.
SELECT s.id, s.session_id, s.title, s.description, s.created_at, s.last_activity, s.is_active,
       s.deleted_at, count(m.timestamp) AS message_count, max(m.timestamp) AS last_message_at
  FROM sessions AS s
  LEFT JOIN messages AS m ON m.session_db_id = s.id
 GROUP BY s.id
 ORDER BY s.id;

-- name: list_sessions()
-- Since the key is the id of the session.
SELECT s.id, s.id AS session_id, s.title, s.description, s.created_at, s.last_activity, s.is_active,
       s.deleted_at, count(m.timestamp) AS message_count, max(m.timestamp) AS last_message_at
  FROM sessions AS s
  LEFT JOIN messages AS m ON m.session_db_id = s.id
 GROUP BY s.id
 ORDER BY s.id;

-- name: list_messages(session_db_id)
-- In the order in which they were said; those of equal times in the order in which they were stored.
SELECT role, content, timestamp, name, tool_call_id, tool_calls, token_count, metadata_json
  FROM messages
 WHERE session_db_id = $1
 ORDER BY timestamp, ctid;

-- name: list_contexts(session_db_ids)
SELECT id, session_db_id, current_agent, created_at, updated_at, metadata_json
  FROM agent_contexts
 WHERE session_db_id = ANY ($1);

-- name: list_switches(context_db_ids)
SELECT context_db_id, from_agent, to_agent, switched_at, reason, metadata_json
  FROM agent_switches
 WHERE context_db_id = ANY ($1)
 ORDER BY context_db_id, switched_at, ctid;
