-- What happened lately in sessions: for the metrics and the audit log of the earlier service's clients. A long name
-- or error is left out: thousands of them are read at a time.

-- name: list_recent_sessions(owner, limit)
-- The sessions of an owner with the latest activity.
SELECT id, session_id
  FROM sessions
 WHERE owner = ?1 AND deleted_at IS NULL
 ORDER BY last_activity DESC, id DESC
 LIMIT ?2;

-- name: list_recent_turns(session_db_ids, limit)
-- The turns of the sessions [id, …] that ended last.
SELECT t.session_db_id, t.n, t.turn_id, t.status, t.agent, t.started_at, t.ended_at,
       CASE WHEN length(t.error) <= 2000 THEN t.error END AS error, t.input_tokens, t.output_tokens
  FROM json_each(?1) AS k
  JOIN turns AS t ON t.session_db_id = k.value
 WHERE t.ended_at IS NOT NULL
 ORDER BY t.ended_at DESC, t.session_db_id DESC, t.n DESC
 LIMIT ?2;

-- name: list_recent_switches(session_db_ids, limit)
-- The latest handovers of the sessions [id, …].
SELECT w.session_db_id, w.n, w.from_agent, w.to_agent, w.switched_at
  FROM json_each(?1) AS k
  JOIN agent_switches AS w ON w.session_db_id = k.value
 WHERE w.from_agent <> ''
 ORDER BY w.switched_at DESC, w.session_db_id DESC, w.n DESC
 LIMIT ?2;

-- name: list_recent_approvals(session_db_ids, limit)
-- The latest approvals of the sessions [id, …].
SELECT a.session_db_id, a.call_id,
       CASE WHEN length(a.tool_name) <= 300 THEN a.tool_name END AS tool_name, a.status, a.created_at, a.decided_at
  FROM json_each(?1) AS k
  JOIN pending_approvals AS a ON a.session_db_id = k.value
 ORDER BY a.created_at DESC, a.session_db_id DESC, a.call_id DESC
 LIMIT ?2;

-- name: list_recent_tool_messages(session_db_ids, count, limit)
-- Of the last `count` messages of each of the sessions [id, …] those that call tools or are a tool's result. The
-- metadata of a failed result is what the runtime writes.
SELECT m.session_db_id, m.seq, m.role, m.timestamp,
       CASE WHEN length(m.name) <= 300 THEN m.name END AS name,
       iif(m.metadata = '{"failed":true}', 1, 0) AS failed
  FROM json_each(?1) AS k
  JOIN sessions AS s ON s.id = k.value
  JOIN messages AS m ON m.session_db_id = s.id AND m.seq > s.last_seq - ?2
 WHERE (m.role = 'tool' OR m.tool_calls IS NOT NULL)
   AND NOT (m.seq > s.cut_after AND m.seq <= s.cut_through)
 ORDER BY m.timestamp DESC, m.session_db_id DESC, m.seq DESC
 LIMIT ?3;
