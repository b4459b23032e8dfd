-- The sessions that were saved without an agent context: they hold the one that every session begins with.

-- name: insert_bare_session(session_db_id)
INSERT INTO bare_sessions (session_db_id) VALUES ($1);

-- name: delete_bare_session(session_db_id)
DELETE FROM bare_sessions WHERE session_db_id = $1;

-- name: list_bare_sessions(session_db_ids)
-- Those among the sessions [id, …].
SELECT b.session_db_id
  FROM json_array_elements_text($1::json) AS k (id)
  JOIN bare_sessions AS b ON b.session_db_id = k.id::bigint;

-- name: list_sessions_with_context(owner, before_activity, before_id, limit)
-- A page of an owner's sessions that have an agent context of their own, latest activity first: it was saved, or the
-- one that they began with has changed since. Differs because the owner stands in the order as well: else Postgres may
-- take another index, and read all sessions for an owner who has few.
SELECT s.id, s.session_id, s.last_activity
  FROM sessions AS s
  JOIN agent_contexts AS c ON c.session_db_id = s.id
 WHERE s.owner = $1 AND s.deleted_at IS NULL AND (s.owner, s.last_activity, s.id) < ($1, $2, $3)
   AND (c.switch_count <> 0 OR c.metadata::text <> '{}'
        OR (SELECT b.session_db_id FROM bare_sessions AS b WHERE b.session_db_id = s.id) IS NULL)
 ORDER BY s.owner DESC, s.last_activity DESC, s.id DESC
 LIMIT $4;
