-- What is asked of the database as a whole.

-- name: ping()
SELECT 1 AS ok;

-- name: list_applied_migrations()
SELECT migration_id FROM _yoyo_migration ORDER BY migration_id;

-- name: list_columns(tables)
-- The columns of the tables named by [name, …], as far as there are any.
SELECT t.relname::text AS table_name, c.attname::text AS column_name, c.attnotnull AS is_required
  FROM pg_class AS t
  JOIN pg_attribute AS c ON c.attrelid = t.oid AND c.attnum > 0 AND NOT c.attisdropped
 WHERE t.relkind IN ('r', 'p', 'v', 'm', 'f') AND pg_table_is_visible(t.oid)
   AND t.relname::text IN (SELECT json_array_elements_text($1::json));

-- name: lock_migrations()
-- Waits until no other process migrates this database, and holds it until the session ends. The number
-- means nothing: every release has to use the same one.
SELECT pg_advisory_lock(7091318039310988653);

-- name: count_everything()
-- For a person who asks: reads whole tables. What is still to be erased is not counted.
SELECT (SELECT count(*) FROM sessions WHERE deleted_at IS NULL) AS sessions,
       (SELECT count(*) FROM sessions WHERE deleted_at IS NOT NULL AND owner IS NOT NULL) AS deleted_sessions,
       (SELECT coalesce(sum(message_count), 0)::bigint FROM sessions WHERE owner IS NOT NULL) AS messages,
       (SELECT coalesce(sum(token_total), 0)::bigint FROM sessions WHERE owner IS NOT NULL) AS tokens,
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
-- Postgres keeps checksums of its own; SQLite has a check to call here.
SELECT 'ok' AS finding LIMIT $1;

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
 LIMIT $1;

-- name: try_lock_retention()
-- Whether this instance is the one that deletes by age now.
-- Where another instance does, the answer is false, at once. The number means nothing: every release has to use the
-- same one. The lock ends with the connection that writes.
SELECT pg_try_advisory_lock(7091318039310988654) AS locked;

-- name: unlock_retention()
SELECT pg_advisory_unlock(7091318039310988654) AS unlocked;
