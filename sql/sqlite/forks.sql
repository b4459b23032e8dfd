-- Forks: sessions that were copied from another one. A copy that takes several transactions is made in a hidden session:
-- it has no owner, as a session that is gone, and a row in unfinished_forks keeps it from being erased.

-- name: insert_forked_session(session_db_id, forked_from_id, forked_from_seq)
INSERT INTO forked_sessions (session_db_id, forked_from_id, forked_from_seq) VALUES (?1, ?2, ?3);

-- name: insert_hidden_session(id, created_at)
INSERT INTO sessions (id, session_id, metadata, created_at, last_activity, is_active, deleted_at, version, last_seq,
                      message_count, token_total, cut_version, changed_version)
VALUES (?1, '', '{}', ?2, ?2, 1, ?2, 0, 0, 0, 0, 0, 0);

-- name: reveal_session(id, owner, session_id, title, description, metadata, created_at, last_activity, is_active, deleted_at, version, last_seq, message_count, token_total, cut_version, changed_version, cut_after, cut_through, first_user_seq, first_user_text, size)
-- Makes a hidden session one of its owner, whole.
UPDATE sessions
   SET owner = ?2,
       session_id = ?3,
       title = ?4,
       description = ?5,
       metadata = ?6,
       created_at = ?7,
       last_activity = ?8,
       is_active = ?9,
       deleted_at = ?10,
       version = ?11,
       last_seq = ?12,
       message_count = ?13,
       token_total = ?14,
       cut_version = ?15,
       changed_version = ?16,
       cut_after = ?17,
       cut_through = ?18,
       first_user_seq = ?19,
       first_user_text = ?20,
       size = ?21
 WHERE id = ?1 AND owner IS NULL;

-- name: insert_unfinished_fork(session_db_id, instance)
INSERT INTO unfinished_forks (session_db_id, instance) VALUES (?1, ?2);

-- name: delete_unfinished_fork(session_db_id)
DELETE FROM unfinished_forks WHERE session_db_id = ?1;

-- name: lock_unfinished_forks(session_db_ids)
-- Those of the hidden sessions [id, …] that are still being copied. Nothing is
-- locked: BEGIN IMMEDIATE has locked the whole file.
SELECT u.session_db_id FROM json_each(?1) AS k JOIN unfinished_forks AS u ON u.session_db_id = k.value;

-- name: list_unfinished_forks(limit)
-- The hidden sessions that are being copied, and by which instance.
SELECT session_db_id, instance FROM unfinished_forks ORDER BY session_db_id LIMIT ?1;

-- name: copy_messages(source_db_id, session_db_id, after_seq, through_seq)
-- Copies the messages of a session behind one, up to another, as they are; those that a cut removed are left out.
INSERT INTO messages (session_db_id, seq, role, content, timestamp, name, tool_call_id, tool_calls, token_count,
                      metadata, extra, size)
SELECT ?2, seq, role, content, timestamp, name, tool_call_id, tool_calls, token_count, metadata, extra, size
  FROM messages
 WHERE session_db_id = ?1 AND seq > ?3 AND seq <= ?4
   AND (seq <= (SELECT cut_after FROM sessions WHERE id = ?1)
        OR seq > (SELECT cut_through FROM sessions WHERE id = ?1))
 ORDER BY seq;

-- name: copy_agent_switches(source_db_id, session_db_id, n)
-- Copies the switches of a session up to one.
INSERT INTO agent_switches (session_db_id, n, from_agent, to_agent, switched_at, reason, metadata, size)
SELECT ?2, n, from_agent, to_agent, switched_at, reason, metadata, size
  FROM agent_switches
 WHERE session_db_id = ?1 AND n <= ?3
 ORDER BY n;

-- name: find_switches_until(session_db_id, switched_at)
-- The last switch until a time, how many there are up to it (the first agent is none), and the agent that held the
-- session then; null where it was never handed over.
SELECT l.n,
       (SELECT count(*) FROM agent_switches WHERE session_db_id = ?1 AND n <= l.n AND from_agent <> '') AS switches,
       coalesce((SELECT to_agent FROM agent_switches WHERE session_db_id = ?1 AND n = l.n),
                (SELECT nullif(from_agent, '') FROM agent_switches WHERE session_db_id = ?1 ORDER BY n LIMIT 1))
       AS agent
  FROM (SELECT coalesce(max(n), 0) AS n FROM agent_switches WHERE session_db_id = ?1 AND switched_at <= ?2) AS l;
