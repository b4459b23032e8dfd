-- The owners of sessions, and all that is theirs.

-- name: list_owners(first_owner, limit)
-- Owners from one on, in order, by a step of the index to each next one; with the latest activity of their sessions,
-- of those that are deleted by itself.
WITH RECURSIVE owners (owner, n) AS (
    SELECT min(owner), 1 FROM sessions WHERE owner >= $1
    UNION ALL
    SELECT (SELECT min(s.owner) FROM sessions AS s WHERE s.owner > o.owner), o.n + 1
      FROM owners AS o
     WHERE o.owner IS NOT NULL AND o.n < $2
)
SELECT o.owner, l.last_activity AS live_activity, d.last_activity AS deleted_activity
  FROM owners AS o
  LEFT JOIN sessions AS l
    ON l.id = (SELECT s.id
                 FROM sessions AS s
                WHERE s.owner = o.owner AND s.deleted_at IS NULL
                ORDER BY s.owner DESC, s.last_activity DESC, s.id DESC
                LIMIT 1)
  LEFT JOIN sessions AS d
    ON d.id = (SELECT s.id
                 FROM sessions AS s
                WHERE s.owner = o.owner AND s.deleted_at IS NOT NULL
                ORDER BY s.owner DESC, s.last_activity DESC, s.id DESC
                LIMIT 1)
 WHERE o.owner IS NOT NULL
 ORDER BY o.owner;

-- name: count_sessions_by_owner(first_owner, last_owner, limit)
-- The sessions of the owners from one through another, and their messages. The first sessions in the order of owners
-- are counted, and no others: the last owner may have more.
SELECT c.owner, count(*) AS sessions, count(c.deleted_at) AS deleted_sessions,
       sum(c.message_count)::bigint AS messages
  FROM (SELECT owner, deleted_at, message_count
          FROM sessions
         WHERE owner >= $1 AND owner <= $2
         ORDER BY owner, session_id
         LIMIT $3) AS c
 GROUP BY c.owner
 ORDER BY c.owner;

-- name: list_sessions_to_erase(owner, limit)
-- Sessions of an owner, deleted or not.
SELECT session_id FROM sessions WHERE owner = $1 ORDER BY session_id LIMIT $2;

-- name: list_idempotency_keys_to_erase(owner, limit)
SELECT key FROM idempotency_keys WHERE owner = $1 ORDER BY key LIMIT $2;

-- name: delete_idempotency_keys(owner, keys)
-- Those of an owner named by [key, …].
DELETE FROM idempotency_keys
 WHERE owner = $1 AND key IN (SELECT json_array_elements_text($2::json));

-- name: lock_tokens_to_erase(owner, limit)
-- All tokens of an owner but the one without an id: see insert_erased_token.
SELECT id FROM tokens WHERE owner = $1 AND id <> '' LIMIT $2 FOR UPDATE;

-- name: delete_tokens(ids)
-- Those of [id, …].
DELETE FROM tokens
 WHERE id IN (SELECT json_array_elements_text($1::json));

-- name: insert_erased_token(created_at)
-- In place of all tokens that were erased: a token that nobody has. A server whose database ever had a token does not
-- open again when the last one is erased.
INSERT INTO tokens (id, hash, name, owner, scope, created_at, revoked_at)
VALUES ('', '', '', '', 'read', $1, $1)
    ON CONFLICT DO NOTHING;

-- name: find_last_released_session(through_id)
-- The highest id of the sessions that are gone and whose rows are still to be erased, up to an id; null without any.
SELECT max(id) AS id FROM sessions WHERE owner IS NULL AND id <= $1;

-- name: vacuum()
-- Rewrites the tables that hold what owners say: what was erased is in none of their pages afterwards. A plain VACUUM
-- would leave the old bytes in place until something else is written over them. Each table is locked against everything
-- while it is rewritten. The statistics, which quote frequent values, are made anew, and rewritten last.
-- Differs because SQLite rewrites the whole file.
VACUUM (FULL, ANALYZE) sessions, messages, agent_contexts, agent_switches, pending_approvals, turns, turn_events,
                       bare_sessions, imported_sessions, session_labels, forked_sessions, search_entries, search_queue,
                       idempotency_keys, tokens, pg_catalog.pg_statistic;
