-- The labels of the sessions, by which lists are filtered: `agent`, `created_at`, `is_active`, and a label for each
-- member of the metadata. Values are compared as bytes; a filter is one or two ranges of them.
-- Differs in the page of sessions in order, as in sessions.sql: the owner stands in the order as well. And OFFSET 0 makes
-- the planner look sessions up by their ids: it may take the candidates for many, and read all sessions of the owner.

-- name: insert_session_label(session_db_id, name, value, owner)
-- execute: copy session_labels
INSERT INTO session_labels (session_db_id, name, value, owner) VALUES ($1, $2, $3, $4);

-- name: update_session_label(session_db_id, name, value)
UPDATE session_labels SET value = $3 WHERE session_db_id = $1 AND name = $2;

-- name: erase_session_labels(session_db_id, first_name)
-- Those of a session from a name on.
DELETE FROM session_labels WHERE session_db_id = $1 AND name >= $2;

-- name: find_unlabelled_session()
-- Whether any session of an earlier version has no labels yet.
SELECT EXISTS (SELECT 1 FROM unlabelled_sessions) AS found;

-- name: lock_unlabelled_sessions(limit, max_bytes)
-- Some of the sessions that have no labels yet; metadata that is larger is null. Those that another instance is
-- changing are passed over.
SELECT s.id, s.owner, s.created_at, s.is_active, s.deleted_at, c.current_agent,
       CASE WHEN coalesce(s.size, octet_length(s.metadata::text)) <= $2 THEN s.metadata END AS metadata
  FROM unlabelled_sessions AS u
 JOIN sessions AS s ON s.id = u.session_db_id
 JOIN agent_contexts AS c ON c.session_db_id = s.id
 WHERE s.owner IS NOT NULL
 ORDER BY u.session_db_id
 LIMIT $1
   FOR UPDATE OF s SKIP LOCKED;

-- name: delete_unlabelled_session(session_db_id)
DELETE FROM unlabelled_sessions WHERE session_db_id = $1;

-- name: count_labels(owner, name, spans, limit)
-- How many sessions of an owner have a label in one of the ranges [[low, high], …], counted up to a limit.
SELECT count(*) AS found
  FROM (SELECT 1
          FROM json_array_elements($3::json) AS r (value)
         CROSS JOIN session_labels AS l
         WHERE l.owner = $1 AND l.name = $2 AND l.value BETWEEN r.value ->> 0 AND r.value ->> 1
         LIMIT $4) AS counted;

-- name: list_labelled_sessions(owner, name, spans, conditions, include_deleted, after_activity, after_id, before_activity, before_id, limit, max_bytes)
-- A page of the sessions of an owner that have a label in one of the ranges [[low, high], …] and fulfil the conditions
-- [[name, low, high, other low, other high], …], latest activity first. All that have the label are read, so they
-- should be few. None at all where the page has more bytes: see messages.sql.
WITH conditions AS MATERIALIZED (
    SELECT e.value ->> 0 AS name, e.value ->> 1 AS low, e.value ->> 2 AS high, e.value ->> 3 AS other_low,
           e.value ->> 4 AS other_high
      FROM json_array_elements($4::json) AS e (value)
), candidates AS MATERIALIZED (
    SELECT l.session_db_id AS id
      FROM json_array_elements($3::json) AS r (value)
     CROSS JOIN session_labels AS l
     WHERE l.owner = $1 AND l.name = $2 AND l.value BETWEEN r.value ->> 0 AND r.value ->> 1
), page AS MATERIALIZED (
    SELECT s.id,
           coalesce(s.size, coalesce(octet_length(s.title::text), 0) + coalesce(octet_length(s.description::text), 0)
                + octet_length(s.metadata::text) + coalesce(octet_length(s.first_user_text::text), 0)) AS size
      FROM candidates AS k
     CROSS JOIN LATERAL
           (SELECT a.id, a.owner, a.deleted_at, a.last_activity, a.size, a.title, a.description, a.metadata,
                   a.first_user_text
              FROM sessions AS a
             WHERE a.id = k.id
            OFFSET 0) AS s
     WHERE s.owner = $1 AND ($5::boolean OR s.deleted_at IS NULL)
       AND (s.last_activity, s.id) > ($6, $7) AND (s.last_activity, s.id) < ($8, $9)
       AND (SELECT count(*)
              FROM conditions AS w
             CROSS JOIN session_labels AS n
             WHERE n.session_db_id = s.id AND n.name = w.name
               AND (n.value BETWEEN w.low AND w.high OR n.value BETWEEN w.other_low AND w.other_high))
           = (SELECT count(*) FROM conditions)
     ORDER BY s.last_activity DESC, s.id DESC
     LIMIT $10
)
SELECT s.id, s.session_id, s.title, s.description, s.metadata, s.created_at, s.last_activity,
       s.is_active, s.deleted_at, s.version, s.last_seq, s.message_count, s.first_user_text,
       c.current_agent, f.forked_from_id, f.forked_from_seq
  FROM page
 JOIN sessions AS s ON s.id = page.id
 JOIN agent_contexts AS c ON c.session_db_id = s.id
  LEFT JOIN forked_sessions AS f ON f.session_db_id = s.id
 WHERE (SELECT sum(size)::bigint FROM page) <= $11
 ORDER BY s.last_activity DESC, s.id DESC;

-- name: measure_labelled_sessions(owner, name, spans, conditions, include_deleted, after_activity, after_id, before_activity, before_id, limit)
-- The sizes of the same.
WITH conditions AS MATERIALIZED (
    SELECT e.value ->> 0 AS name, e.value ->> 1 AS low, e.value ->> 2 AS high, e.value ->> 3 AS other_low,
           e.value ->> 4 AS other_high
      FROM json_array_elements($4::json) AS e (value)
), candidates AS MATERIALIZED (
    SELECT l.session_db_id AS id
      FROM json_array_elements($3::json) AS r (value)
     CROSS JOIN session_labels AS l
     WHERE l.owner = $1 AND l.name = $2 AND l.value BETWEEN r.value ->> 0 AND r.value ->> 1
)
    SELECT coalesce(s.size, coalesce(octet_length(s.title::text), 0) + coalesce(octet_length(s.description::text), 0)
                + octet_length(s.metadata::text) + coalesce(octet_length(s.first_user_text::text), 0)) AS size
      FROM candidates AS k
     CROSS JOIN LATERAL
           (SELECT a.id, a.owner, a.deleted_at, a.last_activity, a.size, a.title, a.description, a.metadata,
                   a.first_user_text
              FROM sessions AS a
             WHERE a.id = k.id
            OFFSET 0) AS s
     WHERE s.owner = $1 AND ($5::boolean OR s.deleted_at IS NULL)
       AND (s.last_activity, s.id) > ($6, $7) AND (s.last_activity, s.id) < ($8, $9)
       AND (SELECT count(*)
              FROM conditions AS w
             CROSS JOIN session_labels AS n
             WHERE n.session_db_id = s.id AND n.name = w.name
               AND (n.value BETWEEN w.low AND w.high OR n.value BETWEEN w.other_low AND w.other_high))
           = (SELECT count(*) FROM conditions)
     ORDER BY s.last_activity DESC, s.id DESC
     LIMIT $10;

-- name: count_labelled_sessions(owner, name, spans, conditions, include_deleted, after_activity, after_id, before_activity, before_id)
-- How many there are of them in all.
WITH conditions AS MATERIALIZED (
    SELECT e.value ->> 0 AS name, e.value ->> 1 AS low, e.value ->> 2 AS high, e.value ->> 3 AS other_low,
           e.value ->> 4 AS other_high
      FROM json_array_elements($4::json) AS e (value)
), candidates AS MATERIALIZED (
    SELECT l.session_db_id AS id
      FROM json_array_elements($3::json) AS r (value)
     CROSS JOIN session_labels AS l
     WHERE l.owner = $1 AND l.name = $2 AND l.value BETWEEN r.value ->> 0 AND r.value ->> 1
)
    SELECT count(*) AS total
      FROM candidates AS k
     CROSS JOIN LATERAL
           (SELECT a.id, a.owner, a.deleted_at, a.last_activity, a.size, a.title, a.description, a.metadata,
                   a.first_user_text
              FROM sessions AS a
             WHERE a.id = k.id
            OFFSET 0) AS s
     WHERE s.owner = $1 AND ($5::boolean OR s.deleted_at IS NULL)
       AND (s.last_activity, s.id) > ($6, $7) AND (s.last_activity, s.id) < ($8, $9)
       AND (SELECT count(*)
              FROM conditions AS w
             CROSS JOIN session_labels AS n
             WHERE n.session_db_id = s.id AND n.name = w.name
               AND (n.value BETWEEN w.low AND w.high OR n.value BETWEEN w.other_low AND w.other_high))
           = (SELECT count(*) FROM conditions);

-- name: count_sessions_with_label(owner, name, spans, include_deleted)
-- How many sessions of an owner have a label in one of the ranges: the entries of an index, without those of the
-- deleted sessions, of which there are few.
SELECT (SELECT count(*)
          FROM json_array_elements($3::json) AS r (value)
         CROSS JOIN session_labels AS l
         WHERE l.owner = $1 AND l.name = $2 AND l.value BETWEEN r.value ->> 0 AND r.value ->> 1)
       - (SELECT count(*)
            FROM sessions AS s
           CROSS JOIN json_array_elements($3::json) AS r (value)
           CROSS JOIN session_labels AS l
           WHERE s.owner = $1 AND s.deleted_at IS NOT NULL AND NOT $4::boolean
             AND l.session_db_id = s.id AND l.name = $2
             AND l.value BETWEEN r.value ->> 0 AND r.value ->> 1)
       AS total;

-- name: find_end_of_walk(owner, include_deleted, after_activity, after_id, before_activity, before_id, steps)
-- The session so many steps further on in an owner's list, if the list goes on so far.
SELECT last_activity, id
  FROM (SELECT * FROM (SELECT s.last_activity, s.id
              FROM sessions AS s
             WHERE s.owner = $1 AND s.deleted_at IS NULL
               AND (s.owner, s.last_activity, s.id) > ($1, $3, $4)
               AND (s.owner, s.last_activity, s.id) < ($1, $5, $6)
             ORDER BY s.owner DESC, s.last_activity DESC, s.id DESC
             LIMIT $7 + 1) AS live
        UNION ALL
        SELECT * FROM (SELECT s.last_activity, s.id
              FROM sessions AS s
             WHERE s.owner = $1 AND s.deleted_at IS NOT NULL AND $2::boolean
               AND (s.owner, s.last_activity, s.id) > ($1, $3, $4)
               AND (s.owner, s.last_activity, s.id) < ($1, $5, $6)
             ORDER BY s.owner DESC, s.last_activity DESC, s.id DESC
             LIMIT $7 + 1) AS deleted) AS both_kinds
 ORDER BY last_activity DESC, id DESC
 LIMIT 1 OFFSET $7;

-- name: list_walked_sessions(owner, conditions, include_deleted, after_activity, after_id, before_activity, before_id, limit, max_bytes)
-- A page of the sessions of an owner that fulfil the conditions, latest activity first. The sessions of the owner are
-- read one by one until it is full, so the span should be short: of 10,000 sessions of a kind, or a page. An inner LIMIT,
-- which is above both and which the planner does not know, makes it read them in the order of their index.
WITH conditions AS MATERIALIZED (
    SELECT e.value ->> 0 AS name, e.value ->> 1 AS low, e.value ->> 2 AS high, e.value ->> 3 AS other_low,
           e.value ->> 4 AS other_high
      FROM json_array_elements($2::json) AS e (value)
), page AS MATERIALIZED (
    SELECT id, last_activity, size
      FROM (SELECT * FROM (SELECT s.id, s.last_activity,
                   coalesce(s.size, coalesce(octet_length(s.title::text), 0) + coalesce(octet_length(s.description::text), 0)
                + octet_length(s.metadata::text) + coalesce(octet_length(s.first_user_text::text), 0)) AS size
              FROM (SELECT a.id, a.owner, a.last_activity, a.size, a.title, a.description, a.metadata, a.first_user_text
                      FROM sessions AS a
                     WHERE a.owner = $1 AND a.deleted_at IS NULL
                       AND (a.owner, a.last_activity, a.id) > ($1, $4, $5)
                       AND (a.owner, a.last_activity, a.id) < ($1, $6, $7)
                     ORDER BY a.owner DESC, a.last_activity DESC, a.id DESC
                     LIMIT $8 + 10000) AS s
             WHERE (SELECT count(*)
              FROM conditions AS w
             CROSS JOIN session_labels AS n
             WHERE n.session_db_id = s.id AND n.name = w.name
               AND (n.value BETWEEN w.low AND w.high OR n.value BETWEEN w.other_low AND w.other_high))
           = (SELECT count(*) FROM conditions)
             ORDER BY s.last_activity DESC, s.id DESC
             LIMIT $8) AS live
            UNION ALL
            SELECT * FROM (SELECT s.id, s.last_activity,
                   coalesce(s.size, coalesce(octet_length(s.title::text), 0) + coalesce(octet_length(s.description::text), 0)
                + octet_length(s.metadata::text) + coalesce(octet_length(s.first_user_text::text), 0)) AS size
              FROM (SELECT a.id, a.owner, a.last_activity, a.size, a.title, a.description, a.metadata, a.first_user_text
                      FROM sessions AS a
                     WHERE a.owner = $1 AND a.deleted_at IS NOT NULL AND $3::boolean
                       AND (a.owner, a.last_activity, a.id) > ($1, $4, $5)
                       AND (a.owner, a.last_activity, a.id) < ($1, $6, $7)
                     ORDER BY a.owner DESC, a.last_activity DESC, a.id DESC
                     LIMIT $8 + 10000) AS s
             WHERE (SELECT count(*)
              FROM conditions AS w
             CROSS JOIN session_labels AS n
             WHERE n.session_db_id = s.id AND n.name = w.name
               AND (n.value BETWEEN w.low AND w.high OR n.value BETWEEN w.other_low AND w.other_high))
           = (SELECT count(*) FROM conditions)
             ORDER BY s.last_activity DESC, s.id DESC
             LIMIT $8) AS deleted) AS both_kinds
     ORDER BY last_activity DESC, id DESC
     LIMIT $8
)
SELECT s.id, s.session_id, s.title, s.description, s.metadata, s.created_at, s.last_activity,
       s.is_active, s.deleted_at, s.version, s.last_seq, s.message_count, s.first_user_text,
       c.current_agent, f.forked_from_id, f.forked_from_seq
  FROM page
 JOIN sessions AS s ON s.id = page.id
 JOIN agent_contexts AS c ON c.session_db_id = s.id
  LEFT JOIN forked_sessions AS f ON f.session_db_id = s.id
 WHERE (SELECT sum(size)::bigint FROM page) <= $9
 ORDER BY s.last_activity DESC, s.id DESC;

-- name: measure_walked_sessions(owner, conditions, include_deleted, after_activity, after_id, before_activity, before_id, limit)
-- The sizes of the same.
WITH conditions AS MATERIALIZED (
    SELECT e.value ->> 0 AS name, e.value ->> 1 AS low, e.value ->> 2 AS high, e.value ->> 3 AS other_low,
           e.value ->> 4 AS other_high
      FROM json_array_elements($2::json) AS e (value)
)
    SELECT id, last_activity, size
      FROM (SELECT * FROM (SELECT s.id, s.last_activity,
                   coalesce(s.size, coalesce(octet_length(s.title::text), 0) + coalesce(octet_length(s.description::text), 0)
                + octet_length(s.metadata::text) + coalesce(octet_length(s.first_user_text::text), 0)) AS size
              FROM (SELECT a.id, a.owner, a.last_activity, a.size, a.title, a.description, a.metadata, a.first_user_text
                      FROM sessions AS a
                     WHERE a.owner = $1 AND a.deleted_at IS NULL
                       AND (a.owner, a.last_activity, a.id) > ($1, $4, $5)
                       AND (a.owner, a.last_activity, a.id) < ($1, $6, $7)
                     ORDER BY a.owner DESC, a.last_activity DESC, a.id DESC
                     LIMIT $8 + 10000) AS s
             WHERE (SELECT count(*)
              FROM conditions AS w
             CROSS JOIN session_labels AS n
             WHERE n.session_db_id = s.id AND n.name = w.name
               AND (n.value BETWEEN w.low AND w.high OR n.value BETWEEN w.other_low AND w.other_high))
           = (SELECT count(*) FROM conditions)
             ORDER BY s.last_activity DESC, s.id DESC
             LIMIT $8) AS live
            UNION ALL
            SELECT * FROM (SELECT s.id, s.last_activity,
                   coalesce(s.size, coalesce(octet_length(s.title::text), 0) + coalesce(octet_length(s.description::text), 0)
                + octet_length(s.metadata::text) + coalesce(octet_length(s.first_user_text::text), 0)) AS size
              FROM (SELECT a.id, a.owner, a.last_activity, a.size, a.title, a.description, a.metadata, a.first_user_text
                      FROM sessions AS a
                     WHERE a.owner = $1 AND a.deleted_at IS NOT NULL AND $3::boolean
                       AND (a.owner, a.last_activity, a.id) > ($1, $4, $5)
                       AND (a.owner, a.last_activity, a.id) < ($1, $6, $7)
                     ORDER BY a.owner DESC, a.last_activity DESC, a.id DESC
                     LIMIT $8 + 10000) AS s
             WHERE (SELECT count(*)
              FROM conditions AS w
             CROSS JOIN session_labels AS n
             WHERE n.session_db_id = s.id AND n.name = w.name
               AND (n.value BETWEEN w.low AND w.high OR n.value BETWEEN w.other_low AND w.other_high))
           = (SELECT count(*) FROM conditions)
             ORDER BY s.last_activity DESC, s.id DESC
             LIMIT $8) AS deleted) AS both_kinds
     ORDER BY last_activity DESC, id DESC
     LIMIT $8;

-- name: count_active_sessions(owner, include_deleted, after_activity, after_id, before_activity, before_id)
-- The sessions of an owner whose last activity was in a span.
SELECT (SELECT count(*)
          FROM sessions AS s
         WHERE s.owner = $1 AND s.deleted_at IS NULL
           AND (s.last_activity, s.id) > ($3, $4) AND (s.last_activity, s.id) < ($5, $6))
       + (SELECT count(*)
            FROM sessions AS s
           WHERE s.owner = $1 AND s.deleted_at IS NOT NULL AND $2::boolean
             AND (s.last_activity, s.id) > ($3, $4) AND (s.last_activity, s.id) < ($5, $6))
       AS total;
