-- The sessions, each with its head. A list that goes in as one parameter is a JSON array.

-- name: lock_heads(keys)
-- The heads of the sessions named by [[owner, session_id], …]. Nothing is locked, because BEGIN
-- IMMEDIATE has locked the whole file.
SELECT s.id, s.owner, s.session_id, s.version, s.last_seq, s.message_count, s.token_total,
       s.last_activity, s.deleted_at, s.cut_version, s.changed_version, s.cut_after, s.cut_through,
       s.first_user_seq
  FROM sessions AS s
 WHERE s.id IN (SELECT n.id
                  FROM json_each(?1) AS k
                  JOIN sessions AS n
                    ON n.owner = k.value ->> 0 AND n.session_id = k.value ->> 1)
 ORDER BY s.id;

-- name: list_heads(keys)
-- Those of the sessions named by [[owner, session_id], …], for readers, who share one look-up: nothing is
-- locked.
SELECT s.id, s.owner, s.session_id, s.version, s.last_seq, s.message_count, s.token_total,
       s.last_activity, s.deleted_at, s.cut_version, s.changed_version, s.cut_after, s.cut_through,
       s.first_user_seq
  FROM json_each(?1) AS k
  JOIN sessions AS s ON s.owner = k.value ->> 0 AND s.session_id = k.value ->> 1;

-- name: find_session(owner, session_id)
-- One session, whole.
SELECT s.id, s.session_id, s.title, s.description, s.metadata, s.created_at, s.last_activity,
       s.is_active, s.deleted_at, s.version, s.last_seq, s.message_count, s.first_user_text,
       c.current_agent, f.forked_from_id, f.forked_from_seq
  FROM sessions AS s
  JOIN agent_contexts AS c ON c.session_db_id = s.id
  LEFT JOIN forked_sessions AS f ON f.session_db_id = s.id
 WHERE s.owner = ?1 AND s.session_id = ?2;

-- name: list_details(session_db_ids, max_bytes)
-- What a head leaves out, of the sessions [id, …] whose heads are locked. Metadata with more bytes is null.
SELECT s.id, s.title, s.description, iif(s.size <= ?2, s.metadata, NULL) AS metadata, s.created_at, s.is_active,
       s.first_user_text, c.current_agent, c.switch_count,
       iif(length(CAST(c.metadata AS BLOB)) <= ?2, c.metadata, NULL) AS context_metadata,
       c.created_at AS context_created_at, c.updated_at AS context_updated_at,
       (SELECT coalesce(max(w.n), 0) FROM agent_switches AS w WHERE w.session_db_id = s.id) AS last_switch,
       f.forked_from_id, f.forked_from_seq
  FROM json_each(?1) AS k
  JOIN sessions AS s ON s.id = k.value
  JOIN agent_contexts AS c ON c.session_db_id = s.id
  LEFT JOIN forked_sessions AS f ON f.session_db_id = s.id;

-- name: allocate_session_ids(count)
-- Ids for new sessions, never used before.
-- Differs because SQLite has no sequences: AUTOINCREMENT keeps the highest id ever given.
WITH RECURSIVE series (n) AS (
    SELECT 1 UNION ALL SELECT n + 1 FROM series WHERE n < ?1
)
SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'sessions'), 0) + n AS id
  FROM series;

-- name: insert_session(id, owner, session_id, title, description, metadata, created_at, last_activity, is_active, deleted_at, version, last_seq, message_count, token_total, cut_version, changed_version, cut_after, cut_through, first_user_seq, first_user_text, size)
INSERT INTO sessions (id, owner, session_id, title, description, metadata, created_at,
                      last_activity, is_active, deleted_at, version, last_seq, message_count,
                      token_total, cut_version, changed_version, cut_after, cut_through,
                      first_user_seq, first_user_text, size)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21);

-- name: update_head(id, base_version, version, last_seq, message_count, token_total, last_activity, cut_version, changed_version, first_user_seq, first_user_text)
-- checks: every row
-- Only from the version that it was planned from. The text is written when the message that it comes from
-- is another one; else it stays.
UPDATE sessions
   SET version = ?3, last_seq = ?4, message_count = ?5, token_total = ?6, last_activity = ?7,
       cut_version = ?8, changed_version = ?9, first_user_seq = ?10,
       first_user_text = CASE WHEN first_user_seq IS ?10
                              THEN first_user_text ELSE ?11 END
 WHERE id = ?1 AND version = ?2;

-- name: update_session(id, title, description, metadata, is_active, deleted_at, size)
-- Metadata stays where it is null; the size is that of what is given.
UPDATE sessions
   SET title = ?2, description = ?3, metadata = coalesce(?4, metadata), is_active = ?5, deleted_at = ?6,
       size = ?7 + iif(?4 IS NULL, length(CAST(metadata AS BLOB)), 0)
 WHERE id = ?1;

-- name: update_cut(id, cut_after, cut_through)
-- Which messages are taken away and still to be erased.
UPDATE sessions SET cut_after = ?2, cut_through = ?3 WHERE id = ?1;

-- name: delete_session(id)
-- For good, with everything in it.
DELETE FROM sessions WHERE id = ?1;

-- name: release_session(id, deleted_at)
-- For good at once, but for its rows: they are nobody's, and are erased in portions. The lists of the cleanup, which
-- go by deleted_at, do not hold it again.
UPDATE sessions SET owner = NULL, deleted_at = ?2, cut_after = 0, cut_through = 0 WHERE id = ?1;

-- name: find_erasable()
-- Whether anything is left to erase, of sessions that are gone and of cuts.
SELECT EXISTS (SELECT 1 FROM sessions AS s
                WHERE s.owner IS NULL
                  AND NOT EXISTS (SELECT 1 FROM unfinished_forks AS u WHERE u.session_db_id = s.id))
       OR EXISTS (SELECT 1 FROM sessions WHERE cut_through > 0) AS found;

-- name: lock_released_sessions(limit)
-- Sessions that are gone and whose rows are still to be erased; the messages up to cut_after are.
-- Differs because nothing is locked, because BEGIN IMMEDIATE has locked the whole file.
SELECT s.id, s.cut_after
  FROM sessions AS s
 WHERE s.owner IS NULL AND NOT EXISTS (SELECT 1 FROM unfinished_forks AS u WHERE u.session_db_id = s.id)
 LIMIT ?1;

-- name: lock_cut_sessions(limit)
-- The heads of sessions whose cut messages are still to be erased.
-- Differs because nothing is locked: BEGIN IMMEDIATE has locked the whole file.
SELECT s.id, s.owner, s.session_id, s.version, s.last_seq, s.message_count, s.token_total,
       s.last_activity, s.deleted_at, s.cut_version, s.changed_version, s.cut_after, s.cut_through,
       s.first_user_seq
  FROM sessions AS s
 WHERE s.cut_through > 0 AND s.owner IS NOT NULL
 ORDER BY s.id
 LIMIT ?1;

-- name: weigh_sessions(session_db_ids, limit)
-- How many rows of the sessions [id, …] an erasing would take, and their bytes where they may be large, counted in each
-- table up to a limit.
-- Differs because SQLite has no LATERAL.
SELECT k.value AS id,
       (SELECT count(*) FROM (SELECT 1 FROM messages WHERE session_db_id = k.value LIMIT ?2))
       + (SELECT count(*) FROM (SELECT 1 FROM turn_events WHERE session_db_id = k.value LIMIT ?2))
       + (SELECT count(*) FROM (SELECT 1 FROM turns WHERE session_db_id = k.value LIMIT ?2))
       + (SELECT count(*) FROM (SELECT 1 FROM agent_switches WHERE session_db_id = k.value LIMIT ?2))
       + (SELECT count(*) FROM (SELECT 1 FROM pending_approvals WHERE session_db_id = k.value LIMIT ?2)) AS rows,
       (SELECT coalesce(sum(size), 0)
          FROM (SELECT coalesce(size, length(CAST(content AS BLOB))) AS size
                  FROM messages WHERE session_db_id = k.value LIMIT ?2))
       + (SELECT coalesce(sum(size), 0)
            FROM (SELECT coalesce(size, length(CAST(metadata AS BLOB))) AS size
                    FROM agent_switches WHERE session_db_id = k.value LIMIT ?2))
       + (SELECT coalesce(sum(size), 0)
            FROM (SELECT coalesce(size, length(CAST(arguments AS BLOB))) AS size
                    FROM pending_approvals WHERE session_db_id = k.value LIMIT ?2)) AS size
  FROM json_each(?1) AS k;

-- name: list_sessions(owner, before_activity, before_id, limit, max_bytes)
-- A page of an owner's sessions, latest activity first. None at all where they have more bytes together: see
-- messages.sql.
SELECT s.id, s.session_id, s.title, s.description, s.metadata, s.created_at, s.last_activity,
       s.is_active, s.deleted_at, s.version, s.last_seq, s.message_count, s.first_user_text,
       c.current_agent, f.forked_from_id, f.forked_from_seq
  FROM sessions AS s
  JOIN agent_contexts AS c ON c.session_db_id = s.id
  LEFT JOIN forked_sessions AS f ON f.session_db_id = s.id
 WHERE s.owner = ?1 AND s.deleted_at IS NULL AND (s.last_activity, s.id) < (?2, ?3)
 ORDER BY s.last_activity DESC, s.id DESC
 LIMIT iif((SELECT sum(size)
              FROM (SELECT size
                      FROM sessions
                     WHERE owner = ?1 AND deleted_at IS NULL AND (last_activity, id) < (?2, ?3)
                     ORDER BY last_activity DESC, id DESC
                     LIMIT ?4)) <= ?5, ?4, 0);

-- name: measure_sessions(owner, before_activity, before_id, limit)
-- The sizes of the same.
SELECT size
  FROM sessions
 WHERE owner = ?1 AND deleted_at IS NULL AND (last_activity, id) < (?2, ?3)
 ORDER BY last_activity DESC, id DESC
 LIMIT ?4;

-- name: list_sessions_and_deleted(owner, before_activity, before_id, limit, max_bytes)
-- The same with the deleted ones: a page of each kind from its own index, then the two as one.
WITH page AS MATERIALIZED (
    SELECT id, size
      FROM (SELECT * FROM (SELECT id, last_activity, size
                             FROM sessions
                            WHERE owner = ?1 AND deleted_at IS NULL
                              AND (last_activity, id) < (?2, ?3)
                            ORDER BY last_activity DESC, id DESC LIMIT ?4) AS live
          UNION ALL
          SELECT * FROM (SELECT id, last_activity, size
                             FROM sessions
                            WHERE owner = ?1 AND deleted_at IS NOT NULL
                              AND (last_activity, id) < (?2, ?3)
                            ORDER BY last_activity DESC, id DESC LIMIT ?4) AS deleted) AS both_kinds
     ORDER BY last_activity DESC, id DESC
     LIMIT ?4
)
SELECT s.id, s.session_id, s.title, s.description, s.metadata, s.created_at, s.last_activity,
       s.is_active, s.deleted_at, s.version, s.last_seq, s.message_count, s.first_user_text,
       c.current_agent, f.forked_from_id, f.forked_from_seq
  FROM page
 CROSS JOIN sessions AS s ON s.id = page.id
 CROSS JOIN agent_contexts AS c ON c.session_db_id = s.id
  LEFT JOIN forked_sessions AS f ON f.session_db_id = s.id
 WHERE (SELECT sum(size) FROM page) <= ?5
 ORDER BY s.last_activity DESC, s.id DESC;

-- name: measure_sessions_and_deleted(owner, before_activity, before_id, limit)
SELECT size
  FROM (SELECT * FROM (SELECT id, last_activity, size
                             FROM sessions
                            WHERE owner = ?1 AND deleted_at IS NULL
                              AND (last_activity, id) < (?2, ?3)
                            ORDER BY last_activity DESC, id DESC LIMIT ?4) AS live
          UNION ALL
          SELECT * FROM (SELECT id, last_activity, size
                             FROM sessions
                            WHERE owner = ?1 AND deleted_at IS NOT NULL
                              AND (last_activity, id) < (?2, ?3)
                            ORDER BY last_activity DESC, id DESC LIMIT ?4) AS deleted) AS both_kinds
 ORDER BY last_activity DESC, id DESC
 LIMIT ?4;

-- name: count_sessions(owner)
SELECT count(*) AS total FROM sessions WHERE owner = ?1 AND deleted_at IS NULL;

-- name: count_sessions_and_deleted(owner)
SELECT count(*) AS total FROM sessions WHERE owner = ?1;

-- name: list_idle_sessions(idle_before, after_owner, limit)
-- Sessions that nothing has happened in since, owner by owner: the index of their lists serves this as well, by a
-- step to each next owner. An index over all owners would be moved by every append.
WITH RECURSIVE owners (owner) AS (
    SELECT min(owner) FROM sessions WHERE deleted_at IS NULL AND owner >= ?2
    UNION ALL
    SELECT (SELECT min(n.owner) FROM sessions AS n WHERE n.deleted_at IS NULL AND n.owner > o.owner)
      FROM owners AS o
     WHERE o.owner IS NOT NULL
)
SELECT s.owner, s.session_id
  FROM owners AS o
  JOIN sessions AS s ON s.owner = o.owner AND s.deleted_at IS NULL AND s.last_activity < ?1
 LIMIT ?3;

-- name: list_erasable_sessions(deleted_before, limit)
-- Sessions of any owner that were deleted before then, longest deleted first.
SELECT owner, session_id
  FROM sessions
 WHERE owner IS NOT NULL AND deleted_at IS NOT NULL AND deleted_at < ?1
 ORDER BY deleted_at, id
 LIMIT ?2;

-- name: count_idle_sessions(idle_before)
-- How many sessions list_idle_sessions has on all of its pages.
WITH RECURSIVE owners (owner) AS (
    SELECT min(owner) FROM sessions WHERE deleted_at IS NULL AND owner >= ''
    UNION ALL
    SELECT (SELECT min(n.owner) FROM sessions AS n WHERE n.deleted_at IS NULL AND n.owner > o.owner)
      FROM owners AS o
     WHERE o.owner IS NOT NULL
)
SELECT count(*) AS total
  FROM owners AS o
  JOIN sessions AS s ON s.owner = o.owner AND s.deleted_at IS NULL AND s.last_activity < ?1;

-- name: count_erasable_sessions(deleted_before)
-- How many sessions list_erasable_sessions has on all of its pages.
SELECT count(*) AS total
  FROM sessions
 WHERE owner IS NOT NULL AND deleted_at IS NOT NULL AND deleted_at < ?1;
