-- What exports read, session by session in the order of their keys, within one snapshot.

-- name: list_sessions_to_export(after_owner, after_session_id, limit, max_bytes)
-- A page of sessions of every owner, deleted ones too, behind a key. None at all where they have more bytes together:
-- see messages.sql. Differs because SQLite's planner may begin with the contexts: CROSS JOIN keeps the order as written.
SELECT s.id, s.owner, s.session_id, s.title, s.description, s.metadata, s.created_at, s.last_activity,
       s.is_active, s.deleted_at, s.version, s.last_seq, s.message_count,
       c.current_agent, c.created_at AS context_created_at, c.updated_at AS context_updated_at, c.switch_count,
       c.metadata AS context_metadata, f.forked_from_id, f.forked_from_seq,
       EXISTS (SELECT 1 FROM bare_sessions WHERE session_db_id = s.id) AS is_bare,
       EXISTS (SELECT 1 FROM agent_switches WHERE session_db_id = s.id) AS has_switches,
       EXISTS (SELECT 1 FROM pending_approvals WHERE session_db_id = s.id) AS has_approvals,
       EXISTS (SELECT 1 FROM turns WHERE session_db_id = s.id) AS has_turns
  FROM sessions AS s
 CROSS JOIN agent_contexts AS c ON c.session_db_id = s.id
  LEFT JOIN forked_sessions AS f ON f.session_db_id = s.id
 WHERE (s.owner, s.session_id) > (?1, ?2)
 ORDER BY s.owner, s.session_id
 LIMIT iif((SELECT sum(size)
              FROM (SELECT coalesce(s.size, length(CAST(s.metadata AS BLOB))) + length(CAST(c.metadata AS BLOB)) AS size
                      FROM sessions AS s
                     CROSS JOIN agent_contexts AS c ON c.session_db_id = s.id
                     WHERE (s.owner, s.session_id) > (?1, ?2)
                     ORDER BY s.owner, s.session_id
                     LIMIT ?3)) <= ?4, ?3, 0);

-- name: find_session_to_export(owner, session_id)
SELECT s.id, s.owner, s.session_id, s.title, s.description, s.metadata, s.created_at, s.last_activity,
       s.is_active, s.deleted_at, s.version, s.last_seq, s.message_count,
       c.current_agent, c.created_at AS context_created_at, c.updated_at AS context_updated_at, c.switch_count,
       c.metadata AS context_metadata, f.forked_from_id, f.forked_from_seq,
       EXISTS (SELECT 1 FROM bare_sessions WHERE session_db_id = s.id) AS is_bare,
       EXISTS (SELECT 1 FROM agent_switches WHERE session_db_id = s.id) AS has_switches,
       EXISTS (SELECT 1 FROM pending_approvals WHERE session_db_id = s.id) AS has_approvals,
       EXISTS (SELECT 1 FROM turns WHERE session_db_id = s.id) AS has_turns
  FROM sessions AS s
 CROSS JOIN agent_contexts AS c ON c.session_db_id = s.id
  LEFT JOIN forked_sessions AS f ON f.session_db_id = s.id
 WHERE s.owner = ?1 AND s.session_id = ?2;

-- name: measure_sessions_to_export(after_owner, after_session_id, limit)
-- The sizes of the same.
SELECT coalesce(s.size, length(CAST(s.metadata AS BLOB))) + length(CAST(c.metadata AS BLOB)) AS size
  FROM sessions AS s
 CROSS JOIN agent_contexts AS c ON c.session_db_id = s.id
 WHERE (s.owner, s.session_id) > (?1, ?2)
 ORDER BY s.owner, s.session_id
 LIMIT ?3;

-- name: list_switches_to_export(session_db_id, after_n, limit, max_bytes)
-- A page of a session's switches, oldest first.
SELECT n, from_agent, to_agent, switched_at, reason, metadata
  FROM agent_switches
 WHERE session_db_id = ?1 AND n > ?2
 ORDER BY n
 LIMIT iif((SELECT sum(size)
              FROM (SELECT coalesce(size, length(CAST(metadata AS BLOB)) + coalesce(length(CAST(reason AS BLOB)), 0)) AS size
                      FROM agent_switches
                     WHERE session_db_id = ?1 AND n > ?2
                     ORDER BY n
                     LIMIT ?3)) <= ?4, ?3, 0);

-- name: measure_switches_to_export(session_db_id, after_n, limit)
SELECT coalesce(size, length(CAST(metadata AS BLOB)) + coalesce(length(CAST(reason AS BLOB)), 0)) AS size
  FROM agent_switches
 WHERE session_db_id = ?1 AND n > ?2
 ORDER BY n
 LIMIT ?3;

-- name: list_turns_to_export(session_db_id, after_n, limit, max_bytes)
-- A page of a session's turns, oldest first.
SELECT n, turn_id, status, agent, started_at, ended_at, error, input_tokens, output_tokens
  FROM turns
 WHERE session_db_id = ?1 AND n > ?2
 ORDER BY n
 LIMIT iif((SELECT sum(size)
              FROM (SELECT coalesce(length(CAST(error AS BLOB)), 0) AS size
                      FROM turns
                     WHERE session_db_id = ?1 AND n > ?2
                     ORDER BY n
                     LIMIT ?3)) <= ?4, ?3, 0);

-- name: measure_turns_to_export(session_db_id, after_n, limit)
SELECT coalesce(length(CAST(error AS BLOB)), 0) AS size
  FROM turns
 WHERE session_db_id = ?1 AND n > ?2
 ORDER BY n
 LIMIT ?3;
