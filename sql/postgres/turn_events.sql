-- What happened in each turn, for those who follow it: numbered from 1, told in order.

-- name: insert_turn_event(session_db_id, turn_n, n, kind, data)
INSERT INTO turn_events (session_db_id, turn_n, n, kind, data)
VALUES ($1, $2, $3, $4, $5);

-- name: append_turn_text(session_db_id, turn_n, n, text)
-- The last event of a turn, which is text, goes on.
UPDATE turn_events
   SET data = data || $4
 WHERE session_db_id = $1 AND turn_n = $2 AND n = $3;

-- name: list_turn_events(session_db_id, turn_n, from_n, limit, max_bytes)
-- A page of a turn's events. None at all where they have more bytes together: see messages.sql.
WITH page AS MATERIALIZED (
    SELECT n, kind, data, octet_length(data) AS size
      FROM turn_events
     WHERE session_db_id = $1 AND turn_n = $2 AND n >= $3
     ORDER BY n
     LIMIT $4
)
SELECT n, kind, data
  FROM page
 WHERE (SELECT sum(size)::bigint FROM page) <= $5
 ORDER BY n;

-- name: measure_turn_events(session_db_id, turn_n, from_n, limit)
-- The sizes of the same.
SELECT octet_length(data) AS size
  FROM turn_events
 WHERE session_db_id = $1 AND turn_n = $2 AND n >= $3
 ORDER BY n
 LIMIT $4;

-- name: list_unfinished_text(session_db_id, turn_n)
-- What was said after the last event that is not text: no message holds it yet.
SELECT data
  FROM turn_events
 WHERE session_db_id = $1 AND turn_n = $2
   AND n > (SELECT coalesce(max(n), 0)
              FROM turn_events
             WHERE session_db_id = $1 AND turn_n = $2 AND kind <> 'text')
 ORDER BY n;

-- name: list_turn_events_to_erase(session_db_id, after_turn_n, after_n, limit)
SELECT turn_n, n, octet_length(data) AS size
  FROM turn_events
 WHERE session_db_id = $1 AND (turn_n, n) > ($2, $3)
 ORDER BY turn_n, n
 LIMIT $4;

-- name: erase_turn_events(session_db_id, turn_n, n)
-- Those up to this one.
DELETE FROM turn_events WHERE session_db_id = $1 AND (turn_n, n) <= ($2, $3);

-- name: delete_old_turn_events(ended_before, limit)
-- The events of the turns that ended first, but for the last of each, which says how it ended.
DELETE FROM turn_events AS e
 USING (SELECT session_db_id, n, last_event
          FROM turns
         WHERE events_kept AND ended_at < $1
         ORDER BY ended_at, session_db_id, n
         LIMIT $2) AS t
 WHERE e.session_db_id = t.session_db_id AND e.turn_n = t.n AND e.n < t.last_event;
