-- Which sessions were imported, from where, and whether all of them is stored.

-- name: insert_import(session_db_id, source, whole_version)
INSERT INTO imported_sessions (session_db_id, source, whole_version) VALUES ($1, $2, $3);

-- name: update_import(session_db_id, whole_version)
UPDATE imported_sessions SET whole_version = $2 WHERE session_db_id = $1;

-- name: list_imports(session_db_ids)
-- Of the sessions [id, …], those that were imported.
SELECT i.session_db_id, i.source, i.whole_version
  FROM json_array_elements_text($1::json) AS k (id)
  JOIN imported_sessions AS i ON i.session_db_id = k.id::bigint;

-- name: count_sessions_of_others(source)
-- The sessions that were not imported from this source.
SELECT count(*) AS sessions
  FROM sessions AS s
 WHERE s.owner IS NOT NULL
   AND NOT EXISTS (SELECT 1 FROM imported_sessions AS i WHERE i.session_db_id = s.id AND i.source = $1);

-- name: list_imported_switches(session_db_ids)
-- Every switch of the sessions [id, …], to compare them with what was imported.
SELECT t.session_db_id, t.n, t.from_agent, t.to_agent, t.switched_at, t.reason, t.metadata
  FROM json_array_elements_text($1::json) AS k (id)
  JOIN agent_switches AS t ON t.session_db_id = k.id::bigint
 ORDER BY t.session_db_id, t.n;

-- name: list_imported_approvals(session_db_ids)
SELECT t.session_db_id, t.call_id, t.tool_name, t.arguments, t.reason, t.status, t.created_at, t.expires_at,
       t.decided_at, t.modified_arguments, t.feedback
  FROM json_array_elements_text($1::json) AS k (id)
  JOIN pending_approvals AS t ON t.session_db_id = k.id::bigint
 ORDER BY t.session_db_id, t.created_at, t.call_id;

-- name: list_imported_turns(session_db_ids)
SELECT t.session_db_id, t.n, t.turn_id, t.status, t.agent, t.started_at, t.ended_at, t.error,
       t.input_tokens, t.output_tokens, t.instance, t.beat, t.stop_requested, t.last_event, t.text_length
  FROM json_array_elements_text($1::json) AS k (id)
  JOIN turns AS t ON t.session_db_id = k.id::bigint
 ORDER BY t.session_db_id, t.n;

-- name: list_imported_messages(session_db_ids)
-- Those of small sessions that are as they were imported: nothing of them was ever cut.
SELECT t.session_db_id, t.seq, t.role, t.content, t.timestamp, t.name, t.tool_call_id, t.tool_calls, t.token_count,
       t.metadata, t.extra
  FROM json_array_elements_text($1::json) AS k (id)
  JOIN messages AS t ON t.session_db_id = k.id::bigint
 ORDER BY t.session_db_id, t.seq;
