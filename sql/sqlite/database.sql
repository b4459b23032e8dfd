-- What is asked of the database as a whole.

-- name: ping()
SELECT 1 AS ok;

-- name: list_applied_migrations()
SELECT migration_id FROM _yoyo_migration ORDER BY migration_id;

-- name: list_columns(tables)
-- The columns of the tables named by [name, …], as far as there are any.
SELECT t.name AS table_name, c.name AS column_name, c."notnull" AS is_required
  FROM sqlite_schema AS t
  JOIN pragma_table_info(t.name) AS c
 WHERE t.type IN ('table', 'view') AND t.name IN (SELECT value FROM json_each(?1));

-- name: lock_migrations()
-- Differs because the lock file beside the database keeps every other process out.
SELECT 1 WHERE 0;

-- name: count_everything()
-- For a person who asks: reads whole tables. What is still to be erased is not counted.
SELECT (SELECT count(*) FROM sessions WHERE deleted_at IS NULL) AS sessions,
       (SELECT count(*) FROM sessions WHERE deleted_at IS NOT NULL AND owner IS NOT NULL) AS deleted_sessions,
       (SELECT coalesce(sum(message_count), 0) FROM sessions WHERE owner IS NOT NULL) AS messages,
       (SELECT coalesce(sum(token_total), 0) FROM sessions WHERE owner IS NOT NULL) AS tokens,
       (SELECT count(*)
          FROM agent_switches
         WHERE session_db_id NOT IN (SELECT id FROM sessions WHERE owner IS NULL)) AS agent_switches,
       (SELECT count(*)
          FROM turns
         WHERE session_db_id NOT IN (SELECT id FROM sessions WHERE owner IS NULL)) AS turns,
       (SELECT count(*)
          FROM pending_approvals
         WHERE status = 'pending'
           AND session_db_id NOT IN (SELECT id FROM sessions WHERE owner IS NULL)) AS pending_approvals,
       (SELECT count(*) FROM idempotency_keys) AS idempotency_keys;

-- name: check_storage(limit)
-- What is broken in the file, or the one row 'ok'. Reads all of it.
SELECT quick_check AS finding FROM pragma_quick_check(?1);

-- name: list_wrong_heads(limit)
-- Sessions whose head and messages disagree: there should be none. What is still to be erased is no message. Reads
-- whole tables.
SELECT s.owner, s.session_id, s.message_count, count(m.seq) AS messages_found, s.last_seq,
       coalesce(max(m.seq), 0) AS last_seq_found
  FROM sessions AS s
  LEFT JOIN messages AS m
    ON m.session_db_id = s.id AND NOT (m.seq > s.cut_after AND m.seq <= s.cut_through)
 WHERE s.owner IS NOT NULL
 GROUP BY s.id
HAVING count(m.seq) <> s.message_count OR coalesce(max(m.seq), 0) > s.last_seq
 LIMIT ?1;

-- name: try_lock_retention()
-- Whether this instance is the one that deletes by age now.
-- Differs because one process owns a file.
SELECT 1 AS locked;

-- name: unlock_retention()
-- Differs because one process owns a file.
SELECT 1 AS unlocked;
