-- What exports read, session by session in the order of their keys, within one snapshot.

-- name: list_sessions_to_export(after_owner, after_session_id, limit, max_bytes)
-- A page of sessions of every owner, deleted ones too, behind a key. None at all where they have more bytes together:
-- see messages.sql. Differs because of EXISTS Postgres would read the whole table.
SELECT s.id, s.owner, s.session_id, s.title, s.description, s.metadata, s.created_at, s.last_activity,
       s.is_active, s.deleted_at, s.version, s.last_seq, s.message_count,
       c.current_agent, c.created_at AS context_created_at, c.updated_at AS context_updated_at, c.switch_count,
       c.metadata AS context_metadata, f.forked_from_id, f.forked_from_seq,
       (SELECT 1 FROM bare_sessions WHERE session_db_id = s.id LIMIT 1) IS NOT NULL AS is_bare,
       (SELECT 1 FROM agent_switches WHERE session_db_id = s.id LIMIT 1) IS NOT NULL AS has_switches,
       (SELECT 1 FROM pending_approvals WHERE session_db_id = s.id LIMIT 1) IS NOT NULL AS has_approvals,
       (SELECT 1 FROM turns WHERE session_db_id = s.id LIMIT 1) IS NOT NULL AS has_turns
  FROM sessions AS s
  JOIN agent_contexts AS c ON c.session_db_id = s.id
  LEFT JOIN forked_sessions AS f ON f.session_db_id = s.id
 WHERE (s.owner, s.session_id) > ($1, $2)
 ORDER BY s.owner, s.session_id
 LIMIT CASE WHEN (SELECT sum(size)::bigint
              FROM (SELECT coalesce(s.size, octet_length(s.metadata::text)) + octet_length(c.metadata::text) AS size
                      FROM sessions AS s
                      JOIN agent_contexts AS c ON c.session_db_id = s.id
                     WHERE (s.owner, s.session_id) > ($1, $2)
                     ORDER BY s.owner, s.session_id
                     LIMIT $3) AS page) <= $4 THEN $3 ELSE 0 END;

-- name: find_session_to_export(owner, session_id)
SELECT s.id, s.owner, s.session_id, s.title, s.description, s.metadata, s.created_at, s.last_activity,
       s.is_active, s.deleted_at, s.version, s.last_seq, s.message_count,
       c.current_agent, c.created_at AS context_created_at, c.updated_at AS context_updated_at, c.switch_count,
       c.metadata AS context_metadata, f.forked_from_id, f.forked_from_seq,
       (SELECT 1 FROM bare_sessions WHERE session_db_id = s.id LIMIT 1) IS NOT NULL AS is_bare,
       (SELECT 1 FROM agent_switches WHERE session_db_id = s.id LIMIT 1) IS NOT NULL AS has_switches,
       (SELECT 1 FROM pending_approvals WHERE session_db_id = s.id LIMIT 1) IS NOT NULL AS has_approvals,
       (SELECT 1 FROM turns WHERE session_db_id = s.id LIMIT 1) IS NOT NULL AS has_turns
  FROM sessions AS s
  JOIN agent_contexts AS c ON c.session_db_id = s.id
  LEFT JOIN forked_sessions AS f ON f.session_db_id = s.id
 WHERE s.owner = $1 AND s.session_id = $2;

-- name: measure_sessions_to_export(after_owner, after_session_id, limit)
-- The sizes of the same.
SELECT coalesce(s.size, octet_length(s.metadata::text)) + octet_length(c.metadata::text) AS size
  FROM sessions AS s
  JOIN agent_contexts AS c ON c.session_db_id = s.id
 WHERE (s.owner, s.session_id) > ($1, $2)
 ORDER BY s.owner, s.session_id
 LIMIT $3;

-- name: list_switches_to_export(session_db_id, after_n, limit, max_bytes)
-- A page of a session's switches, oldest first.
SELECT n, from_agent, to_agent, switched_at, reason, metadata
  FROM agent_switches
 WHERE session_db_id = $1 AND n > $2
 ORDER BY n
 LIMIT CASE WHEN (SELECT sum(size)::bigint
              FROM (SELECT coalesce(size, octet_length(metadata::text) + coalesce(octet_length(reason::text), 0)) AS size
                      FROM agent_switches
                     WHERE session_db_id = $1 AND n > $2
                     ORDER BY n
                     LIMIT $3) AS page) <= $4 THEN $3 ELSE 0 END;

-- name: measure_switches_to_export(session_db_id, after_n, limit)
SELECT coalesce(size, octet_length(metadata::text) + coalesce(octet_length(reason::text), 0)) AS size
  FROM agent_switches
 WHERE session_db_id = $1 AND n > $2
 ORDER BY n
 LIMIT $3;

-- name: list_turns_to_export(session_db_id, after_n, limit, max_bytes)
-- A page of a session's turns, oldest first.
SELECT n, turn_id, status, agent, started_at, ended_at, error, input_tokens, output_tokens
  FROM turns
 WHERE session_db_id = $1 AND n > $2
 ORDER BY n
 LIMIT CASE WHEN (SELECT sum(size)::bigint
              FROM (SELECT coalesce(octet_length(error::text), 0) AS size
                      FROM turns
                     WHERE session_db_id = $1 AND n > $2
                     ORDER BY n
                     LIMIT $3) AS page) <= $4 THEN $3 ELSE 0 END;

-- name: measure_turns_to_export(session_db_id, after_n, limit)
SELECT coalesce(octet_length(error::text), 0) AS size
  FROM turns
 WHERE session_db_id = $1 AND n > $2
 ORDER BY n
 LIMIT $3;
