-- The tool calls that wait, or waited, for a person. One that nobody decided stays 'pending' here
-- also when its time has passed: readers compare expires_at.

-- name: insert_approval(session_db_id, call_id, tool_name, arguments, reason, status, created_at, expires_at, decided_at, modified_arguments, feedback, size)
INSERT INTO pending_approvals (session_db_id, call_id, tool_name, arguments, reason, status,
                               created_at, expires_at, decided_at, modified_arguments, feedback, size)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12);

-- name: update_approval(session_db_id, call_id, status, expires_at, decided_at, modified_arguments, feedback, size)
UPDATE pending_approvals
   SET status = $3, expires_at = $4, decided_at = $5, modified_arguments = $6, feedback = $7,
       size = $8
 WHERE session_db_id = $1 AND call_id = $2;

-- name: delete_approval(session_db_id, call_id)
DELETE FROM pending_approvals WHERE session_db_id = $1 AND call_id = $2;

-- name: list_named_approvals(names)
-- The approvals named by [[session_db_id, call_id], …].
SELECT a.session_db_id, a.call_id, a.tool_name, a.arguments, a.reason, a.status, a.created_at,
       a.expires_at, a.decided_at, a.modified_arguments, a.feedback
  FROM json_array_elements($1::json) AS k (pair)
  JOIN pending_approvals AS a
    ON a.session_db_id = (k.pair ->> 0)::bigint AND a.call_id = k.pair ->> 1;

-- name: list_decisions(names)
-- What became of the approvals named by [[session_db_id, call_id], …], and the bytes of the arguments that a
-- person put in place of the model's.
SELECT a.call_id, a.tool_name, a.status, a.expires_at, octet_length(a.modified_arguments::text) AS edited_bytes
  FROM json_array_elements($1::json) AS k (pair)
  JOIN pending_approvals AS a
    ON a.session_db_id = (k.pair ->> 0)::bigint AND a.call_id = k.pair ->> 1;

-- name: list_edited_arguments(names)
-- Those arguments alone.
SELECT a.call_id, a.modified_arguments
  FROM json_array_elements($1::json) AS k (pair)
  JOIN pending_approvals AS a
    ON a.session_db_id = (k.pair ->> 0)::bigint AND a.call_id = k.pair ->> 1;

-- name: list_approvals(session_db_id, after_created_at, after_call_id, limit, max_bytes)
-- A page of a session's approvals, oldest first, behind a time and a call. None at all where they have more bytes
-- together: see messages.sql.
WITH page AS MATERIALIZED (
    SELECT session_db_id, call_id, tool_name, arguments, reason, status, created_at,
           expires_at, decided_at, modified_arguments, feedback,
           coalesce(size, octet_length(tool_name::text) + octet_length(arguments::text)
                + coalesce(octet_length(reason::text), 0)
                + coalesce(octet_length(modified_arguments::text), 0)
                + coalesce(octet_length(feedback::text), 0)) AS size
      FROM pending_approvals
     WHERE session_db_id = $1 AND (created_at, call_id) > ($2, $3)
     ORDER BY created_at, call_id
     LIMIT $4
)
SELECT session_db_id, call_id, tool_name, arguments, reason, status, created_at,
       expires_at, decided_at, modified_arguments, feedback
  FROM page
 WHERE (SELECT sum(size)::bigint FROM page) <= $5
 ORDER BY created_at, call_id;

-- name: measure_approvals(session_db_id, after_created_at, after_call_id, limit)
-- The sizes of the same.
SELECT coalesce(size, octet_length(tool_name::text) + octet_length(arguments::text)
                + coalesce(octet_length(reason::text), 0)
                + coalesce(octet_length(modified_arguments::text), 0)
                + coalesce(octet_length(feedback::text), 0)) AS size
  FROM pending_approvals
 WHERE session_db_id = $1 AND (created_at, call_id) > ($2, $3)
 ORDER BY created_at, call_id
 LIMIT $4;

-- name: list_approvals_by_status(session_db_id, status, after_created_at, after_call_id, waiting_at, expired_at, limit, max_bytes)
-- Those of a stored status that still wait at a time, or have expired by one, unless that is null.
WITH page AS MATERIALIZED (
    SELECT session_db_id, call_id, tool_name, arguments, reason, status, created_at,
           expires_at, decided_at, modified_arguments, feedback,
           coalesce(size, octet_length(tool_name::text) + octet_length(arguments::text)
                + coalesce(octet_length(reason::text), 0)
                + coalesce(octet_length(modified_arguments::text), 0)
                + coalesce(octet_length(feedback::text), 0)) AS size
      FROM pending_approvals
     WHERE session_db_id = $1 AND status = $2 AND (created_at, call_id) > ($3, $4)
       AND ($5::timestamptz IS NULL OR expires_at IS NULL OR expires_at > $5)
       AND ($6::timestamptz IS NULL OR expires_at <= $6)
     ORDER BY created_at, call_id
     LIMIT $7
)
SELECT session_db_id, call_id, tool_name, arguments, reason, status, created_at,
       expires_at, decided_at, modified_arguments, feedback
  FROM page
 WHERE (SELECT sum(size)::bigint FROM page) <= $8
 ORDER BY created_at, call_id;

-- name: measure_approvals_by_status(session_db_id, status, after_created_at, after_call_id, waiting_at, expired_at, limit)
SELECT coalesce(size, octet_length(tool_name::text) + octet_length(arguments::text)
                + coalesce(octet_length(reason::text), 0)
                + coalesce(octet_length(modified_arguments::text), 0)
                + coalesce(octet_length(feedback::text), 0)) AS size
  FROM pending_approvals
 WHERE session_db_id = $1 AND status = $2 AND (created_at, call_id) > ($3, $4)
   AND ($5::timestamptz IS NULL OR expires_at IS NULL OR expires_at > $5)
   AND ($6::timestamptz IS NULL OR expires_at <= $6)
 ORDER BY created_at, call_id
 LIMIT $7;

-- name: find_approval_time(session_db_id, call_id)
SELECT created_at FROM pending_approvals WHERE session_db_id = $1 AND call_id = $2;

-- name: count_waiting_approvals(now)
-- Those that never expire and those that have not yet: in two, so that the index passes over the expired. Those of
-- sessions that are gone, and still to be erased, are none.
SELECT (SELECT count(*) FROM pending_approvals WHERE status = 'pending' AND expires_at IS NULL)
     + (SELECT count(*) FROM pending_approvals WHERE status = 'pending' AND expires_at > $1)
     - (SELECT count(*)
          FROM sessions AS s
          JOIN pending_approvals AS a ON a.session_db_id = s.id
         WHERE s.owner IS NULL AND a.status = 'pending'
           AND (a.expires_at IS NULL OR a.expires_at > $1)) AS waiting;

-- name: find_approval(session_db_id, call_id)
SELECT session_db_id, call_id, tool_name, arguments, reason, status, created_at,
       expires_at, decided_at, modified_arguments, feedback
  FROM pending_approvals
 WHERE session_db_id = $1 AND call_id = $2;

-- name: list_approvals_to_erase(session_db_id, after_call_id, limit)
SELECT call_id, coalesce(size, pg_column_size(tool_name) + pg_column_size(arguments) + coalesce(pg_column_size(reason), 0)
                           + coalesce(pg_column_size(modified_arguments), 0) + coalesce(pg_column_size(feedback), 0)) AS size
  FROM pending_approvals
 WHERE session_db_id = $1 AND call_id > $2
 ORDER BY call_id
 LIMIT $3;

-- name: erase_approvals(session_db_id, call_id)
-- Those up to this one.
DELETE FROM pending_approvals WHERE session_db_id = $1 AND call_id <= $2;
