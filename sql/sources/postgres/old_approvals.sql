-- Databases of the older service: approvals, which are found by the session's own id and need no session.

-- name: list_approvals(session_ids)
-- While only calls of tools were approved.
SELECT session_id, call_id, tool_name, arguments::text AS arguments, reason, created_at, status
  FROM pending_approvals
 WHERE session_id = ANY ($1)
 ORDER BY created_at, ctid;

-- name: list_requests(session_ids)
-- Since plans are approved as well: those of tools.
SELECT session_id, coalesce(call_id, request_id) AS call_id, coalesce(tool_name, subject) AS tool_name,
       arguments::text AS arguments, details::text AS details, reason, created_at, status, decision_at, decision_reason
  FROM pending_approvals
 WHERE request_type = 'tool' AND session_id = ANY ($1)
 ORDER BY created_at, ctid;
