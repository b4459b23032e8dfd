-- How each conversation was handed over: the n-th switch of its session.

-- name: insert_agent_switch(session_db_id, n, from_agent, to_agent, switched_at, reason, metadata, size)
INSERT INTO agent_switches (session_db_id, n, from_agent, to_agent, switched_at, reason, metadata, size)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: list_agent_switches(session_db_id, before_n, limit, max_bytes)
-- A page of a session's switches, latest first. None at all where they have more bytes together: see messages.sql.
WITH page AS MATERIALIZED (
    SELECT n, from_agent, to_agent, switched_at, reason, metadata,
           coalesce(size, coalesce(octet_length(reason::text), 0) + octet_length(metadata::text)) AS size
      FROM agent_switches
     WHERE session_db_id = $1 AND n < $2
     ORDER BY n DESC
     LIMIT $3
)
SELECT n, from_agent, to_agent, switched_at, reason, metadata
  FROM page
 WHERE (SELECT sum(size)::bigint FROM page) <= $4
 ORDER BY n DESC;

-- name: measure_agent_switches(session_db_id, before_n, limit)
-- The sizes of the same.
SELECT coalesce(size, coalesce(octet_length(reason::text), 0) + octet_length(metadata::text)) AS size
  FROM agent_switches
 WHERE session_db_id = $1 AND n < $2
 ORDER BY n DESC
 LIMIT $3;

-- name: list_agent_switches_to_erase(session_db_id, after_n, limit)
SELECT n, coalesce(size, pg_column_size(metadata) + coalesce(pg_column_size(reason), 0)) AS size
  FROM agent_switches
 WHERE session_db_id = $1 AND n > $2
 ORDER BY n
 LIMIT $3;

-- name: erase_agent_switches(session_db_id, n)
-- Those up to this one.
DELETE FROM agent_switches WHERE session_db_id = $1 AND n <= $2;
