-- Databases of the older service: approvals, which are found by the session's own id and need no session.

-- name: list_approvals(session_ids)
-- While only calls of tools were approved.
SELECT session_id, call_id, tool_name, arguments, reason, created_at, status
  FROM pending_approvals
 WHERE session_id IN (SELECT value FROM json_each(?1))
 ORDER BY created_at, rowid;

-- name: list_requests(session_ids)
-- Since plans are approved as well: those of tools.
SELECT session_id, coalesce(call_id, request_id) AS call_id, coalesce(tool_name, subject) AS tool_name,
       arguments, details, reason, created_at, status, decision_at, decision_reason
  FROM pending_approvals
 WHERE request_type = 'tool' AND session_id IN (SELECT value FROM json_each(?1))
 ORDER BY created_at, rowid;
