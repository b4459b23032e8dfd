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
