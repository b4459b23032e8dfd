-- Copies the rows of the old tables into those of 0005. Each statement is repeated, a transaction each time, until it
-- finds nothing more. It goes on behind the last row that was copied. `:rows` is how many it may take.

INSERT INTO messages_new (session_db_id, seq, role, content, timestamp, name, tool_call_id, tool_calls,
                          token_count, metadata, extra, size)
SELECT session_db_id, seq, role, content, timestamp, name, tool_call_id, tool_calls,
       token_count, metadata, extra,
       length(CAST(content AS BLOB))
       + coalesce(length(CAST(name AS BLOB)), 0)
       + coalesce(length(CAST(tool_call_id AS BLOB)), 0)
       + coalesce(length(CAST(tool_calls AS BLOB)), 0)
       + coalesce(length(CAST(metadata AS BLOB)), 0)
       + coalesce(length(CAST(extra AS BLOB)), 0)
  FROM messages
 WHERE (session_db_id, seq) >
       (coalesce((SELECT session_db_id FROM messages_new ORDER BY rowid DESC LIMIT 1), 0),
        coalesce((SELECT seq FROM messages_new ORDER BY rowid DESC LIMIT 1), 0))
 ORDER BY session_db_id, seq
 LIMIT :rows;

INSERT INTO agent_switches_new (session_db_id, n, from_agent, to_agent, switched_at, reason, metadata, size)
SELECT session_db_id, n, from_agent, to_agent, switched_at, reason, metadata,
       coalesce(length(CAST(reason AS BLOB)), 0)
       + length(CAST(metadata AS BLOB))
  FROM agent_switches
 WHERE (session_db_id, n) >
       (coalesce((SELECT session_db_id FROM agent_switches_new ORDER BY rowid DESC LIMIT 1), 0),
        coalesce((SELECT n FROM agent_switches_new ORDER BY rowid DESC LIMIT 1), 0))
 ORDER BY session_db_id, n
 LIMIT :rows;

INSERT INTO pending_approvals_new (session_db_id, call_id, tool_name, arguments, reason, status, created_at,
                                   expires_at, decided_at, modified_arguments, feedback, size)
SELECT session_db_id, call_id, tool_name, arguments, reason, status, created_at,
       expires_at, decided_at, modified_arguments, feedback,
       length(CAST(tool_name AS BLOB))
       + length(CAST(arguments AS BLOB))
       + coalesce(length(CAST(reason AS BLOB)), 0)
       + coalesce(length(CAST(modified_arguments AS BLOB)), 0)
       + coalesce(length(CAST(feedback AS BLOB)), 0)
  FROM pending_approvals
 WHERE (session_db_id, call_id) >
       (coalesce((SELECT session_db_id FROM pending_approvals_new ORDER BY rowid DESC LIMIT 1), 0),
        coalesce((SELECT call_id FROM pending_approvals_new ORDER BY rowid DESC LIMIT 1), ''))
 ORDER BY session_db_id, call_id
 LIMIT :rows;

INSERT INTO turn_events_new (session_db_id, turn_n, n, kind, data)
SELECT session_db_id, turn_n, n, kind, data
  FROM turn_events
 WHERE (session_db_id, turn_n, n) >
       (coalesce((SELECT session_db_id FROM turn_events_new ORDER BY rowid DESC LIMIT 1), 0),
        coalesce((SELECT turn_n FROM turn_events_new ORDER BY rowid DESC LIMIT 1), 0),
        coalesce((SELECT n FROM turn_events_new ORDER BY rowid DESC LIMIT 1), 0))
 ORDER BY session_db_id, turn_n, n
 LIMIT :rows;

INSERT INTO sessions_new (id, owner, session_id, title, description, metadata, created_at, last_activity,
                          is_active, deleted_at, version, last_seq, message_count, token_total,
                          cut_version, changed_version, first_user_seq, first_user_text, size)
SELECT id, owner, session_id, title, description, metadata, created_at, last_activity,
       is_active, deleted_at, version, last_seq, message_count, token_total,
       cut_version, changed_version, first_user_seq, first_user_text,
       coalesce(length(CAST(title AS BLOB)), 0)
       + coalesce(length(CAST(description AS BLOB)), 0)
       + length(CAST(metadata AS BLOB))
       + coalesce(length(CAST(first_user_text AS BLOB)), 0)
  FROM sessions
 WHERE id > coalesce((SELECT id FROM sessions_new ORDER BY id DESC LIMIT 1), 0)
 ORDER BY id
 LIMIT :rows;
