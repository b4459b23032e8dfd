-- The tool calls that wait, or waited, for a person. One that nobody decided stays 'pending' here
-- also when its time has passed: whoever reads it looks at expires_at.

-- name: insert_approval(session_db_id, call_id, tool_name, arguments, reason, status, created_at, expires_at, decided_at, modified_arguments, feedback)
INSERT INTO pending_approvals (session_db_id, call_id, tool_name, arguments, reason, status,
                               created_at, expires_at, decided_at, modified_arguments, feedback)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11);

-- name: update_approval(session_db_id, call_id, status, decided_at, modified_arguments, feedback)
UPDATE pending_approvals
   SET status = ?3, decided_at = ?4, modified_arguments = ?5, feedback = ?6
 WHERE session_db_id = ?1 AND call_id = ?2;

-- name: delete_approval(session_db_id, call_id)
DELETE FROM pending_approvals WHERE session_db_id = ?1 AND call_id = ?2;

-- name: list_named_approvals(names)
-- The approvals named by [[session_db_id, call_id], …].
SELECT a.session_db_id, a.call_id, a.tool_name, a.arguments, a.reason, a.status, a.created_at,
       a.expires_at, a.decided_at, a.modified_arguments, a.feedback
  FROM json_each(?1) AS k
  JOIN pending_approvals AS a
    ON a.session_db_id = k.value ->> 0 AND a.call_id = k.value ->> 1;

-- name: list_approvals(session_db_id)
SELECT session_db_id, call_id, tool_name, arguments, reason, status, created_at,
       expires_at, decided_at, modified_arguments, feedback
  FROM pending_approvals
 WHERE session_db_id = ?1
 ORDER BY created_at, call_id;

-- name: list_approvals_by_status(session_db_id, status)
SELECT session_db_id, call_id, tool_name, arguments, reason, status, created_at,
       expires_at, decided_at, modified_arguments, feedback
  FROM pending_approvals
 WHERE session_db_id = ?1 AND status = ?2
 ORDER BY created_at, call_id;
